"""What is in a page's file, and that nothing else is taken for it."""

import struct
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caravan_engine.domain.paging.page_image import PageInfo
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.page_files import (
    Codec,
    PagePacker,
    header_size,
    read_header,
    unpack,
)
from caravan_engine.storage.page_folder import PageFolder
from caravan_engine.storage.page_losses import LossCause, PageFileError

MEMORY_BYTES_AT = 82
CODECS = pytest.mark.parametrize("codec", list(Codec), ids=lambda codec: codec.name)
TOKENS = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=16)


def file_of(image, identity, codec=Codec.NONE, *, protected=False):
    header, stored = PagePacker(identity, codec).pack(image, protected=protected)
    return header + bytes(stored)


def read(data, identity):
    size = header_size(data)
    header = read_header(data[:size], identity)
    return header, unpack(header, data[size:])


def cause_of(data, identity):
    with pytest.raises(PageFileError) as caught:
        read(data, identity)
    return caught.value.cause


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    before=st.lists(TOKENS.filter(lambda tokens: len(tokens) == 16), max_size=3),
    tokens=TOKENS,
    data=st.binary(max_size=2000),
    codec=st.sampled_from(Codec),
    tenant=st.text(max_size=10),
    protected=st.booleans(),
)
def test_a_page_comes_back_as_it_was(pages, before, tokens, data, codec, tenant, protected):
    image = None
    for each in [*before, tokens]:
        image = pages.image(each, data, after=image, tenant=tenant)
    file = file_of(image, pages.identity, codec, protected=protected)

    header, back = read(file, pages.identity)

    assert back == image
    assert header.is_protected is protected
    assert header.file_bytes == len(file)


@CODECS
def test_each_flipped_byte_is_noticed(pages, codec, tmp_path):
    image = pages.image()
    file = file_of(image, pages.identity, codec)
    folder = PageFolder.open(tmp_path, pages.identity)
    path = tmp_path / pages.identity.folder_name / f"{image.info.key.hex()}.page"
    for at in range(len(file)):
        path.write_bytes(file[:at] + bytes([file[at] ^ 0x5A]) + file[at + 1 :])
        with pytest.raises(PageFileError):
            folder.read(image.info.key)
    path.write_bytes(file)
    assert folder.read(image.info.key) == image
    folder.close()


@CODECS
def test_a_file_cut_off_anywhere_or_longer_is_noticed(pages, codec, tmp_path):
    image = pages.image()
    file = file_of(image, pages.identity, codec)
    folder = PageFolder.open(tmp_path, pages.identity)
    path = tmp_path / pages.identity.folder_name / f"{image.info.key.hex()}.page"
    for content in [*(file[:length] for length in range(len(file))), file + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(PageFileError):
            folder.read(image.info.key)
    folder.close()


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": "e" * 64},
        {"layout": b"3 layers of 64 bytes"},
        {"key_type": "q8_0"},
        {"value_type": "f16"},
        {"page_size": 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_page_of_another_context_is_foreign(pages, change):
    other = replace(pages.identity, **change)

    assert cause_of(file_of(pages.image(), pages.identity), other) is LossCause.FOREIGN
    assert other.folder_name != pages.identity.folder_name


def test_a_page_of_another_version_is_foreign(pages):
    file = bytearray(file_of(pages.image(), pages.identity))
    file[8] += 1

    assert cause_of(bytes(file), pages.identity) is LossCause.FOREIGN


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": (5,)},
        {"tokens": (*range(17),)},
        {"tokens": ()},
        {"start": 16},
        {"key": bytes(16)},
        {"parent": bytes(16)},
        {"root": bytes(16)},
    ],
    ids=str,
)
def test_a_page_that_its_key_does_not_name_is_never_written(pages, change):
    image = pages.image()
    forged = replace(image, info=replace(image.info, **change))

    with pytest.raises(PageFileError):
        PagePacker(pages.identity, Codec.NONE).pack(forged, protected=False)


def test_a_page_damaged_in_memory_is_never_written(pages):
    image = pages.image()
    damaged = replace(image, data=b"x" + bytes(image.data)[1:])

    with pytest.raises(PageFileError) as caught:
        PagePacker(pages.identity, Codec.NONE).pack(damaged, protected=False)
    assert caught.value.cause is LossCause.DAMAGED


def test_a_file_that_would_decompress_to_another_size_is_refused(pages):
    file = bytearray(file_of(pages.image(), pages.identity, Codec.ZSTD))
    size = header_size(bytes(file))
    struct.pack_into("<Q", file, MEMORY_BYTES_AT, 2**40)
    struct.pack_into("<Q", file, size - 8, checksum(bytes(file[: size - 8])))

    assert cause_of(bytes(file), pages.identity) is LossCause.DAMAGED


def test_zstd_makes_memory_that_repeats_itself_smaller(pages):
    image = pages.image(data=b"\1\2\3\4" * 5000)

    assert len(file_of(image, pages.identity, Codec.ZSTD)) < 1000
    assert len(file_of(image, pages.identity, Codec.NONE)) > 20_000


def test_memory_that_is_not_bytes_is_taken_as_such(pages):
    words = memoryview(bytes(range(16))).cast("I")
    image = replace(pages.image(), data=words, checksum=checksum(words))

    _, back = read(file_of(image, pages.identity), pages.identity)

    assert back.data == bytes(range(16))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_noise_is_no_page(data):
    with pytest.raises(PageFileError):
        header_size(data)


def test_a_page_info_survives_with_its_position(pages):
    chain = pages.chain(3)
    header, _ = read(file_of(chain[2], pages.identity), pages.identity)

    assert header.info == chain[2].info
    assert isinstance(header.info, PageInfo)
    assert header.info.start == 32
