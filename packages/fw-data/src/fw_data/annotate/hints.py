"""How to fix each refusal: a hint for every code of the scan and of the filters.

Geometry backends give theirs with the refusal itself.
"""

HINTS = {
    # the video
    "unreadable": "check the file with a player; re-encode or remove it",
    "empty": "copy or download it again",
    "no-index": "finish the recording or download, or rebuild the index with a repair tool such as untrunc",
    "no-frames": "check the file with a player; re-encode or remove it",
    "no-video": "remove it, or give a file with a video stream",
    "no-decoder": "re-encode it, for instance to H.264",
    "rotation": "re-encode it upright, for instance with ffmpeg",
    "size": "give images of one size",
    "too-small": "give a larger video",
    "too-large": "scale it down first",
    "too-long": "split it first",
    "changed": "run again once the file is complete",
    "link-outside": "give --follow-links if you trust it, or copy the video",
    # its shots and clips
    "duplicate": "remove one of the two files",
    "near-duplicate": "--duplicate-bits -1 keeps both",
    "transition": "expected between shots; nothing to do",
    "too-short": "lower --min-frames to keep it",
    # the filters
    "too-dark": "--min-brightness 0 keeps it",
    "no-detail": "--min-contrast 0 keeps it",
    "no-motion": "--min-motion 0 keeps it; geometry needs a moving camera",
    "blurred": "--min-sharpness 0 keeps it",
    "overlay": "--max-overlay 0 keeps it, or crop the video",
    # errors
    "error": "run again with --retry-failed; please report it if it persists",
}


def hint(code: str) -> str:
    """The hint for a code; for codes of other packages a general one."""
    return HINTS.get(code, "see the reason; remove the video if you cannot change it")
