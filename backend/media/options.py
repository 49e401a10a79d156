"""`mm_processor_kwargs`: how pictures are sized and videos sampled.

Three layers, the later wins: the server's flag, the request's field, one video's own keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from backend.errors import ErnieError, InvalidRequestError
from backend.media.sampling import FRAME_SAMPLES, FrameSampling
from backend.wire import MediaURL

SERVER_FLAG: Final = "--mm-processor-kwargs"
MAX_PIXELS_LIMIT: Final = 64 * 2**20


@dataclass(frozen=True)
class ProcessorOptions:
    """FastDeploy's names and defaults (models.md §5.1, §5.2).

    Pixels count the resized picture or frame. `video_target_frames` -1 means: by `video_fps`.
    The conv sizes and `patch_size` belong to the model; they can be stated but not changed.
    """

    image_min_pixels: int = 4 * 28 * 28
    image_max_pixels: int = 6177 * 28 * 28
    video_min_pixels: int = 299 * 28 * 28
    video_max_pixels: int = 1196 * 28 * 28
    video_target_frames: int = -1
    video_frames_sample: str = "leading"
    video_min_frames: int = 16
    video_max_frames: int = 180
    video_fps: float = 2.0
    spatial_conv_size: int = 2
    temporal_conv_size: int = 2
    patch_size: int = 14

    @property
    def factor(self) -> int:
        """Sides of resized pictures are multiples of this."""
        return self.patch_size * self.spatial_conv_size

    @property
    def sampling(self) -> FrameSampling:
        return FrameSampling(
            fps=self.video_fps,
            min_frames=self.video_min_frames,
            max_frames=self.video_max_frames,
            target_frames=self.video_target_frames,
            frames_sample=self.video_frames_sample,
        )

    def override(
        self,
        values: Mapping[str, Any],
        where: str,
        error: type[ErnieError] = InvalidRequestError,
        prefix: str = "",
    ) -> ProcessorOptions:
        """A copy with `values` laid over it; their keys lack `prefix`.

        Raises `error` naming `where`, the key, its value and what was expected.
        """
        checked = {
            prefix + key: self._check(prefix + key, value, f"{where}.{key}", error)
            for key, value in values.items()
        }
        # A wish for a number of frames replaces an earlier one for a rate, and the other way round,
        # unless both were stated.
        if checked.get("video_target_frames", -1) > 0 and "video_fps" not in checked:
            checked["video_fps"] = -1.0
        elif checked.get("video_fps", -1.0) > 0 and "video_target_frames" not in checked:
            checked["video_target_frames"] = -1
        merged = dataclasses.replace(self, **checked)
        for kind in ("image", "video"):
            low = getattr(merged, f"{kind}_min_pixels")
            high = getattr(merged, f"{kind}_max_pixels")
            if low > high:
                raise error(
                    f"{where}: {kind}_min_pixels {low} is greater than {kind}_max_pixels {high}",
                    param=where,
                )
        return merged

    def override_video(self, part: MediaURL, where: str) -> ProcessorOptions:
        """A copy with one video part's own `fps`, `min_frames`, ... laid over it."""
        stated = {
            name: getattr(part, name)
            for name in ("fps", "min_frames", "max_frames", "target_frames", "frames_sample")
            if getattr(part, name) is not None
        }
        return self.override(stated, where, prefix="video_") if stated else self

    def _check(self, key: str, value: Any, param: str, error: type[ErnieError]) -> Any:
        if key not in _NAMES:
            raise error(
                f"{param} is not known; known keys: {', '.join(sorted(_NAMES))}", param=param
            )
        if key == "video_frames_sample":
            if value not in FRAME_SAMPLES:
                raise error(
                    f"{param} is {value!r}; it must be one of {', '.join(FRAME_SAMPLES)}",
                    param=param,
                )
            return value
        if key in _MODEL_SIZES:
            needed = getattr(self, key)
            if value != needed or isinstance(value, bool):
                raise error(f"{param} is {value!r}; this model needs {needed}", param=param)
            return needed
        low, high, kind = _RANGES[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise error(f"{param} is {value!r}; expected a number", param=param)
        # nan fails both comparisons, so it lands in the error as well.
        if not low <= value <= high or (kind is int and value != int(value)):
            article = "an integer" if kind is int else "a number"
            raise error(f"{param} is {value}; expected {article} in [{low}, {high}]", param=param)
        return kind(value)


_NAMES: Final = frozenset(item.name for item in dataclasses.fields(ProcessorOptions))
_MODEL_SIZES: Final = frozenset({"spatial_conv_size", "temporal_conv_size", "patch_size"})
_RANGES: Final[dict[str, tuple[int, int, type]]] = {
    "image_min_pixels": (1, MAX_PIXELS_LIMIT, int),
    "image_max_pixels": (784, MAX_PIXELS_LIMIT, int),
    "video_min_pixels": (1, MAX_PIXELS_LIMIT, int),
    "video_max_pixels": (784, MAX_PIXELS_LIMIT, int),
    "video_target_frames": (-1, 100_000, int),
    "video_min_frames": (-1, 100_000, int),
    "video_max_frames": (-1, 100_000, int),
    "video_fps": (-1, 240, float),
}
