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
    assert pictures.read_header(data)[1:4] == (37, 53, True)
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


def test_fill_bytes_before_a_jpegs_markers_are_none_of_them():
    data = encoded(".jpg")
    filled = data[:2] + b"\xff" * 3 + data[2:-2] + b"\xff" + data[-2:]
    assert (pictures.decode_rgb(filled) == pictures.decode_rgb(data)).all()


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


def webp_with_exif(content):
    """The extended form, of a lossless picture."""
    plain = encoded(".webp", SMOOTH, cv2.IMWRITE_WEBP_QUALITY, 101)
    sizes = struct.pack("<I", 52)[:3] + struct.pack("<I", 36)[:3]
    extended = b"VP8X" + struct.pack("<IB3x", 10, 0b1000) + sizes + plain[12:]
    extended += b"EXIF" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8, 9])
def test_a_picture_tells_its_orientation(orientation):
    data, segment = encoded(".jpg"), exif(orientation)
    expected = orientation if orientation < 9 else 1
    for turned in (
        data[:2] + segment + data[2:],
        png(0, 8, [[1, 2]], (b"eXIf", segment[10:])),
        webp_with_exif(segment[10:]),
        tiff((274, 3, orientation), order=">"),
        tiff((274, 4, orientation), order=">"),
    ):
        assert pictures.decode_rgb(turned) is not None
        assert pictures.orientation_of(turned) == expected
    assert pictures.orientation_of(data) == 1
    for length in range(len(segment)):
        assert pictures.orientation_of(data[:2] + segment[:length]) in (1, expected)
    as_text = segment.replace(struct.pack("<HH", 0x0112, 3), struct.pack("<HH", 0x0112, 2))
    assert pictures.orientation_of(data[:2] + as_text + data[2:]) == 1


def values_of(bits):
    """Values of so many bits (5, 16), and the same packed, as rows of a PNG."""
    values = RANDOM.randint(0, 1 << bits, (5, 16))
    packed = np.zeros((5, 16 * bits // 8), np.uint8)
    for column in range(16):
        shift = 8 - bits - column * bits % 8
        packed[:, column * bits // 8] |= (values[:, column] << shift).astype(np.uint8)
    return values, packed.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_of_a_palette_the_indices_are_the_values(bits):
    indices, packed = values_of(bits)
    colors = RANDOM.bytes(3 << bits)
    data = png(3, bits, packed, (b"PLTE", colors))
    found = pictures.decode_as_stored(data)
    assert found.dtype == np.uint8 and (found == indices).all()
    assert pictures.palette_of(data).tobytes() == colors
    assert pictures.palette_of(png(0, bits, packed)).shape == (0, 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_values_of_few_bits_are_stored_as_they_are_and_shown_spread(bits):
    values, packed = values_of(bits)
    data = png(0, bits, packed, (b"tRNS", b"\0\0"))
    found = pictures.decode_as_stored(data)
    assert found.dtype == np.uint8 and found.shape == (5, 16) and (found == values).all()
    spread = values * 255 // ((1 << bits) - 1)
    assert (pictures.decode_rgb(data) == spread[..., None]).all()


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


VALUES = np.arange(49, dtype=np.uint8).reshape(7, 7)
DEFLATED = zlib.compress(VALUES.tobytes())


def tiff(*changes, **options):
    """Seven by seven pixels by hand; ``changes`` are further tags with type and value.

    ``pixels``: as they are packed; ``instead``: values by tag; ``order``: of the bytes, ``<`` or
    ``>``; ``others``: the kinds (tag 254) of pictures that follow.
    """
    pixels, order = options.get("pixels", DEFLATED), options.get("order", "<")
    tags = [(256, 4, 7), (257, 4, 7), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(278, 4, 7), (279, 4, len(pixels))] + list(changes)
    others_at = 8 + 2 + 12 * (len(tags) + 1) + 4 + len(pixels)
    tags.append((273, 4, others_at - len(pixels)))
    packed = b"II*\0" if order == "<" else b"MM\0*"
    packed += struct.pack(order + "IH", 8, len(tags))
    for tag, type_, value in sorted(tags):
        value = options.get("instead", {}).get(tag, value)
        short = struct.pack(order + "HH", value, 0) if type_ == 3 else None
        packed += struct.pack(order + "HHI", tag, type_, 1)
        packed += short or struct.pack(order + "I", value)
    others = options.get("others", ())
    packed += struct.pack(order + "I", others_at if others else 0) + pixels
    for kind in others:
        packed += struct.pack(order + "HHHII", 1, 254, 4, 1, kind)
        following = len(packed) + 4 if len(packed) + 4 < others_at + 18 * len(others) else 0
        packed += struct.pack(order + "I", following)
    return packed


def test_a_tiff_by_hand_is_one():
    for order in "<>":
        assert (pictures.decode_as_stored(tiff(order=order)) == VALUES).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("type_", [3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_orientation_turns_a_tiff(orientation, type_, order):
    data = tiff((274, type_, orientation), order=order)
    assert (pictures.decode_as_stored(data) == VALUES).all()
    assert (pictures.decode_rgb(data) == VALUES[..., None]).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("alpha", [0, 1, 2])
def test_no_alpha_darkens_a_tiff(alpha, order):
    rgba = RANDOM.randint(0, 256, (7, 7, 4)).astype(np.uint8)
    pixels = zlib.compress(rgba.tobytes())
    data = tiff((338, 3, alpha), pixels=pixels, instead={262: 2, 277: 4}, order=order)
    assert (pictures.decode_rgb(data) == rgba[..., :3]).all()
    assert (pictures.decode_as_stored(data)[..., 2::-1] == rgba[..., :3]).all()


def bmp(bits, rows, palette):
    """A BMP by hand: rows from the bottom up, of four bytes each; a palette of BGR."""
    colors = b"".join(bytes(color) + b"\0" for color in palette)
    start = 14 + 40 + len(colors)
    head = struct.pack(
        "<IiiHHIIiiII", 40, 32 // bits, len(rows), 1, bits, 0, 0, 0, 0, len(palette), 0
    )
    pixels = b"".join(rows[::-1])
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + colors + pixels


def test_of_a_bmp_with_a_grey_palette_the_indices_are_the_values():
    black_white = bmp(1, [b"\xa0\0\0\1"], [(0, 0, 0), (255, 255, 255)])
    found = pictures.decode_as_stored(black_white)
    assert found.shape == (1, 32) and np.flatnonzero(found).tolist() == [0, 2, 31]
    assert set(found.ravel()) == {0, 1}
    assert set(pictures.decode_rgb(black_white).ravel()) == {0, 255}
    greys = bmp(4, [b"\x01\x23\0\0"], [(17 * i,) * 3 for i in range(4)])
    assert pictures.decode_as_stored(greys).tolist() == [[0, 1, 2, 3, 0, 0, 0, 0]]
    colors = bmp(4, [b"\x01\x23\0\0"], [(i, 9, 80) for i in range(4)])
    assert pictures.decode_as_stored(colors)[0, :4].tolist() == [[i, 9, 80] for i in range(4)]
    grey = RANDOM.randint(0, 256, (5, 7)).astype(np.uint8)
    assert (pictures.decode_as_stored(encoded(".bmp", grey)) == grey).all()


@pytest.mark.parametrize(
    "data, said",
    [
        (b"P1\n2 1\n0 1\n", "a PNM whose 0 is white"),
        (b"P4\n8 1\n\xa0", "a PNM whose 0 is white"),
        (b"P2 2 1 # of text\n11\n3 11\n", "a PNM of values in text up to 11"),
        (b"P3\n1 1\n11\n3 0 11\n", "a PNM of values in text up to 11"),
        (tiff(instead={262: 0}), "a TIFF whose 0 is white"),
        (tiff(instead={258: 1}, pixels=zlib.compress(bytes(7))), "a TIFF of 1 bits a value"),
    ],
)
def test_values_that_would_not_come_as_they_lie_are_refused(data, said):
    with pytest.raises(ImageError) as caught:
        pictures.decode_as_stored(data)
    assert_one_line(caught, said, "PNG")
    assert pictures.decode_rgb(data).dtype == np.uint8


@pytest.mark.parametrize(
    "data, values",
    [
        (b"P5\n2 1\n11\n\x03\x0b", [3, 11]),
        (b"P2\n2 1\n255\n3 11\n", [3, 11]),
        (b"P2\n2 1\n900\n3 11\n", [3, 11]),
    ],
)
def test_values_of_a_pgm_come_as_they_lie(data, values):
    assert pictures.decode_as_stored(data).tolist() == [values]


@pytest.mark.parametrize("others, pictures_", [((), 1), ((1, 4), 1), ((1, 0), 2), ((0, 2), 3)])
def test_a_tiff_of_several_pictures_is_refused_thumbnails_and_masks_are_none(others, pictures_):
    data = tiff(others=others)
    assert pictures.read_header(data).pictures == pictures_
    if pictures_ == 1:
        assert (pictures.decode_as_stored(data) == VALUES).all()
    else:
        assert_holds(data, "a TIFF that holds %d pictures" % pictures_)


def assert_holds(data, said):
    for decode in (pictures.decode_rgb, pictures.decode_as_stored):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert_one_line(caught, said, "expected one")


def test_a_tiff_whose_pictures_lead_back_is_broken():
    data = tiff(others=(1, 1))
    circle = data[:-22] + struct.pack("<I", 8) + data[-18:]
    assert pictures.read_header(data).is_whole and not pictures.read_header(circle).is_whole


def test_a_png_of_several_pictures_is_refused():
    def animation(frames):
        return png(0, 8, [[0, 1], [2, 3]], (b"acTL", struct.pack(">II", frames, 0)))

    assert pictures.read_header(animation(1)).pictures == 1
    assert_holds(animation(3), "a PNG that holds 3 pictures")


def webp(frames):
    """A WebP with as many frames; what they show does not matter here."""

    def chunk(kind, content):
        return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    content = chunk(b"VP8X", struct.pack("<II", 2, 52)[:7] + struct.pack("<I", 36)[:3])
    content += chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", bytes(17)) * frames
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def test_a_webp_of_several_pictures_is_refused():
    assert pictures.read_header(webp(1))[:5] == ("WebP", 37, 53, True, 1)
    assert_holds(webp(2), "a WebP that holds 2 pictures")


@pytest.mark.parametrize("code, is_lossy", [(1, 0), (5, 0), (8, 0), (6, 1), (7, 1), (34712, 1)])
def test_a_tiff_is_lossy_as_its_compression_is(code, is_lossy):
    assert pictures.read_header(tiff(instead={259: code})).is_lossy == bool(is_lossy)


@pytest.mark.parametrize("ending, is_lossy", [(".jpg", 1), (".webp", 1), (".png", 0), (".bmp", 0)])
def test_formats_that_change_values_are_lossy(ending, is_lossy):
    options = [cv2.IMWRITE_WEBP_QUALITY, 80] if ending == ".webp" else []
    header = pictures.read_header(encoded(ending, SMOOTH, *options))
    assert header[1:4] == (37, 53, True) and header.is_lossy == bool(is_lossy)


def test_a_lossless_webp_is_none_of_them():
    data = encoded(".webp", SMOOTH, cv2.IMWRITE_WEBP_QUALITY, 101)
    assert not pictures.read_header(data).is_lossy
    assert (pictures.decode_as_stored(data) == SMOOTH).all()


@pytest.mark.parametrize("code", [8, 32946])
def test_damage_in_a_deflated_tiff_is_found(code):
    for place in range(len(DEFLATED)):
        damaged = bytearray(DEFLATED)
        damaged[place] ^= 0x55
        data = tiff(pixels=bytes(damaged), instead={259: code})
        try:
            found = pictures.decode_as_stored(data)
        except ImageError as error:
            assert "broken" in str(error)
        else:
            assert (found == VALUES).all()


def test_a_deflated_tiff_has_all_its_rows():
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(tiff(pixels=zlib.compress(VALUES[:6].tobytes())))
    assert_one_line(caught, "cut off or broken")
    padded = zlib.compress(VALUES.tobytes() + bytes(50))
    assert (pictures.decode_as_stored(tiff(pixels=padded)) == VALUES).all()


def test_little_of_a_deflated_tiff_is_decompressed_that_holds_too_much():
    bomb = zlib.compress(VALUES.tobytes() + bytes(1 << 20))
    assert (pictures.decode_as_stored(tiff(pixels=bomb[:-4])) == VALUES).all()  # its end is unread


@pytest.mark.parametrize("rows", [1, 8, 100])
def test_deflated_strips_that_a_library_wrote_are_whole(rows):
    pixels = cv2.resize(SMOOTH, (300, 100))
    rows_per_strip = 278  # no name of it in OpenCV 4.6, which chooses a number itself
    data = encoded(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, 8, rows_per_strip, rows)
    assert (pictures.decode_rgb(data) == pixels[..., ::-1]).all()


def test_tiles_of_a_deflated_tiff_are_whole():
    tile = np.zeros((16, 16), np.uint8)
    tile[:7, :7] = VALUES
    tiles = tiff(
        (322, 3, 16), (323, 3, 16), pixels=zlib.compress(tile.tobytes()), instead={278: 16}
    )
    assert (pictures.decode_as_stored(tiles) == VALUES).all()


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


def test_a_pnm_without_a_size_takes_no_time():
    for start in (b"P5", b"P2 1 1"):
        assert not pictures.read_header(start + b" " * 4000 + b"x").is_whole


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", b"P9 1 1 "])
def test_what_is_no_picture_is_one_line(data):
    with pytest.raises(ImageError) as caught:
        pictures.decode_rgb(data)
    assert_one_line(caught, "%d bytes" % len(data), "PNG")
