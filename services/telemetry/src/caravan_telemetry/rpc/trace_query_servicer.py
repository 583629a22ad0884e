"""`caravan.telemetry.v1.TraceQueryService`: shows spans."""

import re
from functools import partial

from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan_rpckit.call import Call
from caravan_rpckit.errors import FieldViolation
from caravan_telemetry.domain.errors import InvalidFieldsError
from caravan_telemetry.domain.trace_archive import TraceArchive
from caravan_telemetry.rpc.convert_spans import get_trace_response
from caravan_telemetry.runtime.storing_thread import StoringThread

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class TraceQueryServicer:
    """Reads from the archive, behind those who store."""

    def __init__(self, archive: TraceArchive, thread: StoringThread, *, spare_places: int) -> None:
        self._archive = archive
        self._thread = thread
        self._spare_places = spare_places

    async def GetTrace(
        self, request: query_pb.GetTraceRequest, call: Call
    ) -> query_pb.GetTraceResponse:
        """The spans of one call."""
        if not _REQUEST_ID.fullmatch(request.request_id):
            raise InvalidFieldsError([FieldViolation("request_id", "is not a request id")])
        find = partial(self._archive.find, request.request_id)
        trace = await self._thread.run(find, spare_places=self._spare_places)
        return get_trace_response(trace)
