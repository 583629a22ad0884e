import asyncio

from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.host.lines import read_lines


async def split(chunks, limit):
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    return [line async for line in read_lines(reader, limit_bytes=limit)]


async def test_long_lines_are_cut_and_the_next_line_is_whole():
    assert await split([b"a" * 100, b"b\nnext\n"], 10) == [b"a" * 10, b"next"]


async def test_a_last_line_without_newline_counts():
    assert await split([b"one\ntw", b"o"], 10) == [b"one", b"two"]


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x00", b"\n")), st.integers(1, 60))
def test_chunk_borders_do_not_matter(data, cut):
    async def both():
        whole = await split([data] if data else [], 80)
        parts = [part for part in (data[:cut], data[cut:]) if part]
        return whole, await split(parts, 80)

    whole, parts = asyncio.run(both())
    assert whole == parts
