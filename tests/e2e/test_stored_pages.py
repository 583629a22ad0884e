"""What is stored of texts, over all processes."""

import subprocess
import sys
from pathlib import Path

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import generation_pb2 as pb

TEXT = "Pages of this text are found again by the next who sends it, until they are dropped. " * 4


def cached_tokens(client):
    request = pb.GenerateRequest(model="bundled", text=TEXT, max_output_tokens=2, session_id="s")
    answer = client.inference.Generate(request, metadata=client.metadata, timeout=60)
    return answer.usage.cached_tokens


def drop(client, tenant):
    request = gateway_pb.DropPagesRequest(tenant=tenant)
    return client.gateway.DropPages(request, metadata=client.metadata, timeout=60)


def test_what_was_dropped_is_computed_anew_and_other_tenants_keep_theirs(admin, stack):
    cached_tokens(admin)
    assert cached_tokens(admin) > 0
    assert drop(admin, "nobody").dropped_page_count == 0
    assert cached_tokens(admin) > 0

    command = [str(Path(sys.executable).parent / "caravan"), "kv", "drop", "--tenant", "default"]
    environment = {"CARAVAN_ADDRESS": stack.address, "CARAVAN_API_KEY": stack.admin_key}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert "pages of default dropped by 1 workers" in told.stdout, told.stderr
    assert cached_tokens(admin) == 0
    assert cached_tokens(admin) > 0
