"""Quality of a clip in numbers: filters applied before geometry, grades after it, motion tags and masks."""
