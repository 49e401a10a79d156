"""mm_processor_kwargs: layers, types, ranges; every complaint names the key."""

import pytest

from backend.errors import ConfigError, InvalidRequestError
from backend.media.options import SERVER_FLAG, ProcessorOptions
from backend.wire import MediaURL


def test_defaults_are_the_trained_limits():
    options = ProcessorOptions()
    assert (options.image_min_pixels, options.image_max_pixels) == (3136, 4_842_768)
    assert (options.video_min_pixels, options.video_max_pixels) == (234_416, 937_664)
    assert options.factor == 28


def test_what_the_published_commands_set():
    server = ProcessorOptions().override({"video_max_frames": 30}, SERVER_FLAG, ConfigError)
    request = server.override({"image_max_pixels": 12845056}, "mm_processor_kwargs")
    assert request.video_max_frames == 30 and request.image_max_pixels == 12845056
    assert server.image_max_pixels == 4_842_768


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_max_pixel": 1}, "image_max_pixel is not known; known keys: .*image_max_pixels"),
        ({"factor": 28}, "factor is not known"),
        ({"image_max_pixels": "many"}, "image_max_pixels is 'many'; expected a number"),
        ({"image_max_pixels": True}, "image_max_pixels is True; expected a number"),
        ({"image_max_pixels": 1.5e3 + 0.5}, "1500.5; expected an integer"),
        ({"image_max_pixels": 10**12}, "expected an integer in"),
        ({"image_min_pixels": 0}, "image_min_pixels is 0; expected an integer in"),
        ({"video_fps": float("nan")}, "video_fps is nan"),
        ({"video_max_frames": float("inf")}, "video_max_frames is inf; expected an integer"),
        ({"video_frames_sample": "last"}, "video_frames_sample is 'last'; it must be one of"),
        ({"video_frames_sample": ["rand"]}, "it must be one of leading, middle, rand"),
        ({"spatial_conv_size": 4}, "spatial_conv_size is 4; this model needs 2"),
        ({"image_min_pixels": 5_000_000}, "image_min_pixels 5000000 is greater than"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(InvalidRequestError, match=message):
        ProcessorOptions().override(values, "mm_processor_kwargs")
    with pytest.raises(ConfigError, match=SERVER_FLAG):
        ProcessorOptions().override(values, SERVER_FLAG, ConfigError)


def test_the_models_own_sizes_may_be_stated():
    options = ProcessorOptions()
    assert options.override({"spatial_conv_size": 2, "temporal_conv_size": 2}, "x") == options


def test_a_video_part_overrides_the_request():
    part = MediaURL(url="u", fps=1.0, max_frames=20, frames_sample="middle")
    sampling = ProcessorOptions().override_video(part, "messages[0].content[0]").sampling
    assert (sampling.fps, sampling.max_frames, sampling.frames_sample) == (1.0, 20, "middle")
    assert sampling.min_frames == 16


def test_a_video_parts_bad_value_is_named_as_the_client_wrote_it():
    part = MediaURL(url="u", fps=1e9)
    with pytest.raises(InvalidRequestError, match=r"^messages\[0\].content\[1\].video_url.fps is"):
        ProcessorOptions().override_video(part, "messages[0].content[1].video_url")


def test_asking_for_a_number_of_frames_replaces_the_default_rate():
    options = ProcessorOptions().override({"video_target_frames": 32}, "mm_processor_kwargs")
    assert (options.sampling.fps, options.sampling.target_frames) == (-1.0, 32)


def test_asking_for_a_rate_replaces_the_servers_number_of_frames():
    server = ProcessorOptions().override({"video_target_frames": 32}, "--mm-processor-kwargs")
    by_part = server.override_video(MediaURL(url="u", fps=1.0), "messages[0].content[0]")
    by_request = server.override({"video_fps": 1}, "mm_processor_kwargs")
    for options in (by_part, by_request):
        assert (options.sampling.fps, options.sampling.target_frames) == (1.0, -1)


def test_a_rate_and_a_number_of_frames_together_stay_a_contradiction():
    both = {"video_target_frames": 32, "video_fps": 2}
    assert ProcessorOptions().override(both, "mm_processor_kwargs").sampling.fps == 2.0


def test_a_part_without_options_changes_nothing():
    options = ProcessorOptions()
    assert options.override_video(MediaURL(url="u", detail="high"), "x") is options
