"""Encoded pictures: exact, whole, small in memory; whatever the bytes, an array or one line."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from support.core.tiny import assert_one_line

from segmentation_node import pictures
from segmentation_node.errors import ImageError

RANDOM = np.random.RandomState(0)
SMOOTH = cv2.resize(RANDOM.randint(0, 256, (4, 6, 3)).astype(np.uint8), (53, 37))
EXACT = (".png", ".tif", ".tiff", ".bmp", ".ppm", ".pnm")


def encoded(ending, pixels=SMOOTH, *options):
    found, data = cv2.imencode(ending, pixels, list(options))
    assert found
    return data.tobytes()


def png(color_type, bits, rows, *extra):
    """A PNG written by hand: rows of packed samples, chunks before the pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = len(rows), len(rows[0]) * 8 // bits
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    chunks = [chunk(b"IHDR", header)] + [chunk(*item) for item in extra]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks + [chunk(b"IDAT", data), chunk(b"IEND", b"")])


def exif(orientation):
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff


@pytest.mark.parametrize("ending", pictures.ENDINGS)
def test_every_format_gives_its_pixels_and_says_its_size(ending):
    pixels = SMOOTH if ending != ".pgm" else SMOOTH[..., 0]
    data = encoded(ending, pixels)
    assert pictures.read_header(data)[1:] == (37, 53, True)
    rgb = pictures.decode_rgb(data)
    expected = SMOOTH[..., ::-1] if ending != ".pgm" else np.stack([pixels] * 3, axis=-1)
    difference = np.abs(rgb.astype(int) - expected).max()
    assert difference <= (0 if ending in EXACT + (".pgm",) else 24)


@pytest.mark.parametrize("ending", pictures.ENDINGS)
def test_a_picture_that_was_cut_anywhere_is_refused(ending):
    data = encoded(ending, SMOOTH if ending != ".pgm" else SMOOTH[..., 0])
    for length in range(0, len(data), 7):
        with pytest.raises(ImageError):
            pictures.decode_rgb(data[:length])
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(data[: len(data) * 2 // 3])
    assert_one_line(caught, "cut off", pictures.read_header(data).format)


@pytest.mark.parametrize("option", [cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL])
def test_progressive_jpegs_and_restarts_are_whole(option):
    data = encoded(".jpg", SMOOTH, option, 2)
    assert pictures.read_header(data).is_whole
    assert not pictures.read_header(data[: len(data) * 3 // 4]).is_whole


def test_a_thumbnails_end_marker_does_not_make_a_jpeg_whole():
    thumbnail = encoded(".jpg", SMOOTH[:8, :8])
    content = b"Exif\0\0" + thumbnail
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    data = encoded(".jpg")
    whole = data[:2] + segment + data[2:]
    assert (pictures.decode_rgb(whole) == pictures.decode_rgb(data)).all()
    assert (pictures.decode_rgb(whole + b"\0" * 100) == pictures.decode_rgb(data)).all()
    with pytest.raises(ImageError):
        pictures.decode_rgb(whole[: len(whole) // 2])


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_no_orientation_turns_the_pixels(orientation):
    data = encoded(".jpg")
    turned = data[:2] + exif(orientation) + data[2:]
    assert (pictures.decode_rgb(turned) == pictures.decode_rgb(data)).all()
    assert pictures.decode_as_stored(turned).shape == (37, 53, 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_of_a_palette_the_indices_are_the_values(bits):
    indices = RANDOM.randint(0, 1 << bits, (5, 16))
    packed = np.zeros((5, 16 * bits // 8), np.uint8)
    for column in range(16):
        shift = 8 - bits - column * bits % 8
        packed[:, column * bits // 8] |= (indices[:, column] << shift).astype(np.uint8)
    palette = (b"PLTE", RANDOM.bytes(3 << bits))
    found = pictures.decode_as_stored(png(3, bits, packed.tolist(), palette))
    assert found.dtype == np.uint8 and (found == indices).all()


def test_grey_values_of_16_bits_stay():
    pixels = RANDOM.randint(0, 1 << 16, (5, 7)).astype(np.uint16)
    assert (pictures.decode_as_stored(encoded(".png", pixels)) == pixels).all()


def jpeg_of_size(width, height):
    data = bytearray(encoded(".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_two_sizes():
    """What libjpeg reads comes first, what it leaves alone behind the pixels."""
    data = jpeg_of_size(30000, 30000)
    at = data.index(b"\xff\xc0")
    (length,) = struct.unpack_from(">H", data, at + 2)
    second = bytearray(data[at : at + 2 + length])
    second[5:9] = struct.pack(">HH", 5, 7)
    return data[:-2] + bytes(second) + data[-2:]


def tiff(*changes):
    """Seven by seven pixels by hand; ``changes`` are further tags with type and value."""
    pixels = zlib.compress(bytes(49))
    tags = [(256, 4, 7), (257, 4, 7), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(278, 4, 7), (279, 4, len(pixels))] + list(changes)
    tags.append((273, 4, 8 + 2 + 12 * (len(tags) + 1) + 4))
    packed = [struct.pack("<HHII", tag, type_, 1, value) for tag, type_, value in sorted(tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(packed) + bytes(4) + pixels


def test_a_tiff_by_hand_is_one():
    assert pictures.decode_as_stored(tiff()).shape == (7, 7)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_of_two_sizes(),
        tiff((256, 4, 5), (257, 4, 5)),
        tiff((256, 16, 30000)),
        tiff((322, 4, 30000), (323, 4, 30000)),
        b"P5 #\r30000 30000 255 \n10 10 255\n" + bytes(200),
    ],
    ids=["JPEG", "TIFF, a tag twice", "TIFF, of another type", "TIFF, tiles", "PNM"],
)
def test_a_picture_of_two_sizes_is_refused_before_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(data)
    assert_one_line(caught, "cut off or broken")


def tiff_of(dtype):
    """A TIFF of this type of values; skips where OpenCV writes others (4.6, Python 3.6's)."""
    if tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 8):
        pytest.skip("NOT RUN: OpenCV %s writes no TIFF of %s" % (cv2.__version__, dtype.__name__))
    return encoded(".tiff", SMOOTH.astype(dtype))


@pytest.mark.parametrize("dtype, said", [(np.float32, "32 bits"), (np.float64, "64 bits")])
def test_a_tiff_of_more_bits_than_a_camera_has_is_refused(dtype, said):
    data = tiff_of(dtype)
    for decode in (pictures.decode_rgb, pictures.decode_as_stored):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert_one_line(caught, said, "expected 8 or 16")


def test_a_tiff_without_a_size_is_broken():
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(tiff().replace(struct.pack("<HH", 256, 4), struct.pack("<HH", 254, 4)))
    assert_one_line(caught, "cut off or broken")


@pytest.mark.parametrize(
    "data",
    [png(0, 1, [[0] * 1250] * 1), jpeg_of_size(30000, 30000), jpeg_of_size(0, 10)],
    ids=["one bit", "30000x30000", "empty"],
)
def test_a_header_is_not_trusted_with_memory(data, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST_IMAGE_PIXELS", 9999)
    monkeypatch.setattr(cv2, "imdecode", None)  # nothing is decoded
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(data)
    assert_one_line(caught, "expected 1 to 9999 pixels")


def test_whatever_the_bytes_it_is_an_array_or_one_line():
    random = np.random.RandomState(7)
    sources = [encoded(ending) for ending in (".png", ".jpg", ".webp", ".tif", ".bmp", ".ppm")]
    for round_ in range(600):
        data = bytearray(sources[round_ % len(sources)])
        for _ in range(random.randint(1, 6)):
            data[random.randint(0, min(len(data), random.choice([40, len(data)])))] = (
                random.randint(256)
            )
        for decode in (pictures.decode_rgb, pictures.decode_as_stored):
            try:
                assert decode(bytes(data)).size
            except ImageError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", b"P9 1 1 "])
def test_what_is_no_picture_is_one_line(data):
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(data)
    assert_one_line(caught, "%d bytes" % len(data), "PNG")
