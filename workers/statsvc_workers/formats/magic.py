"""Recognize the content of a file by its first bytes, for error messages about files of another format.

The messages are stored in a version, and clients of the API read them: they never quote the content.
"""

from __future__ import annotations

from statsvc_workers.formats.base import COPY_AGAIN

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "is a PNG by its content; rename it to .png"),
    (b"\x93NUMPY", "is a NumPy array by its content; rename it to .npy"),
    (b"II*\0", "is a TIFF by its content; rename it to .tif"),
    (b"MM\0*", "is a TIFF by its content; rename it to .tif"),
    (b"II+\0", "is a BigTIFF by its content; rename it to .tif"),
    (b"MM\0+", "is a BigTIFF by its content; rename it to .tif"),
    (b"\xff\xd8\xff", "is a JPEG by its content; JPEG is lossy, so it cannot store labels: export it as PNG"),
    (b"GIF8", "is a GIF by its content; rename it to .gif"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file by its content; rename it to .h5"),
    (b"MATLAB", "is a MAT file by its content; rename it to .mat"),
    (b"NRRD000", "is an NRRD volume by its content; rename it to .nrrd"),
    (b"\0\0\0\x0cjP  ", "is a JPEG 2000 image by its content; rename it to .jp2"),
    (b"PAR1", "is a Parquet file by its content; rename it to .parquet"),
    (b"BM", "is a BMP by its content; rename it to .bmp"),
    (b"PK\x03\x04", "is a zip archive by its content; rename it to .npz if it contains NumPy arrays"),
    (b"\x1f\x8b", "is gzip-compressed by its content; decompress it"),
    (b"%PDF", "is a PDF by its content; choose the label maps with --pattern"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<!DOCTYPE", "is a web page by its content, as after a failed download; download it again"),
    (b"<html", "is a web page by its content, as after a failed download; download it again"),
)


def describe_content(head: bytes) -> str:
    """Return what a file is by its first bytes, such as "is empty", with the next step for its owner."""
    if not head:
        return f"is empty (0 bytes); {COPY_AGAIN}"
    for magic, description in _MAGIC:
        if head.startswith(magic):
            return description
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "is a WebP image by its content; rename it to .webp"
    if not any(head):
        return f"begins with zero bytes only, as after an interrupted copy; {COPY_AGAIN}"
    try:
        # `head` may end within a multi-byte character; the text is still text.
        text = head.decode("utf-8", "ignore" if head[-1] >= 0x80 else "strict")
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return f"is a text file by its content; {COPY_AGAIN}"
    return f"has the content of no known image format; {COPY_AGAIN}"
