"""What of the binding works without a GPU: layouts, random numbers, errors, the reasons given."""

import ctypes
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from backend.sampler.keys import derived_key, seed_key, uniform
from kernels import sampling

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.timeout(1200)  # whoever comes first waits for the build

WORDS = st.integers(0, 2**64 - 1)


@given(WORDS, WORDS, st.integers(0, 2**63 - 1))
def test_random_numbers_are_numpys_to_the_bit(extension, key0, key1, position):
    raw = extension.philox_raw(key0, key1, position)
    assert (raw >> 11) * 2.0**-53 == uniform((key0, key1), position)


def test_random_numbers_of_both_kinds_of_stream(extension):
    for key in (seed_key(0), seed_key(2**64 - 1), derived_key(3, "request")):
        for position in (0, 1, 131_071):
            assert (extension.philox_raw(*key, position) >> 11) * 2.0**-53 == uniform(key, position)


def test_sampling_layouts_have_the_kernels_sizes(extension):
    assert sampling.ROW.itemsize == extension.SAMPLING_ROW_BYTES
    assert sampling.RESULT.itemsize == extension.SAMPLING_RESULT_BYTES
    assert extension.MAX_TOP_LOGPROBS == sampling.MAX_TOP_LOGPROBS
    assert sampling.ROW.fields["key"][1] == 40
    assert sampling.RESULT.fields["top_ids"][1] == 16


def test_rows_travel_as_bytes_and_results_come_back():
    rows = sampling.padding_rows(3)
    rows["temperature"] = [0.0, 0.5, 1.0]
    data = sampling.row_bytes(rows)
    assert data.shape == (3, 64) and data.dtype == np.uint8
    np.testing.assert_array_equal(data.view(sampling.ROW).reshape(3), rows)
    words = np.zeros((2, 44), np.int32)
    words[1, 0] = 77
    assert sampling.results_of(words)["token"].tolist() == [0, 77]


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int32", "int64", "int8", "uint8", "uint16", "bool"]
)
def test_numpys_dlpack_is_understood(extension, dtype):
    array = np.zeros((2, 3, 4), dtype)[:, ::2]
    device, name, shape, strides = extension.dlpack_layout(array)
    short = {"float": "f", "uint": "u", "int": "i"}
    expected = dtype
    for long, letter in short.items():
        if dtype.startswith(long):
            expected = letter + dtype[len(long) :]
            break
    assert device == 1  # the host
    assert name == getattr(extension, expected)
    assert shape == [2, 2, 4] and strides == [12, 8, 1]


def test_torchs_dlpack_is_understood(extension):
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(6, 4, dtype=torch.bfloat16).t()
    assert extension.dlpack_layout(tensor) == (1, extension.bf16, [4, 6], [1, 4])
    with pytest.raises(ValueError, match=r"dtype \(code 5, 64 bits, 1 lanes\) is not supported"):
        extension.dlpack_layout(torch.zeros(2, dtype=torch.complex64))


def test_paddles_dlpack_is_understood(extension):
    paddle = pytest.importorskip("paddle")
    tensor = paddle.zeros([3, 5], dtype="bfloat16")
    assert extension.dlpack_layout(tensor) == (1, extension.bf16, [3, 5], [5, 1])


def test_objects_without_dlpack_are_refused(extension):
    with pytest.raises(ValueError, match="has no __dlpack__"):
        extension.dlpack_layout([1, 2])


def test_errors_have_names_and_a_family(extension):
    assert issubclass(extension.OutOfMemoryError, extension.CudaError)
    assert issubclass(extension.CudaError, RuntimeError)


def _print_of(code, folder=ROOT):
    """What a fresh interpreter in `folder` prints for `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_a_visible_device_the_reason_says_so(extension):
    code = (
        "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "import kernels; print(kernels.unavailable_reason())"
    )
    reasons = (NO_DRIVER, "no usable NVIDIA driver or device: cuda", "no CUDA device is visible")
    assert _print_of(code).startswith(reasons)


@pytest.mark.parametrize(
    ("count", "device", "reason"),
    [
        (1, 3, "there is no CUDA device gpu:3; 1 visible, counted from 0"),
        (4, 1, None),
        (4, 3, None),
        (4, 0, "device 0 has compute capability 7.5; 8.0 or newer is needed"),
        (0, 0, "no CUDA device is visible"),
        (
            4,
            2,
            "device 2 (compute capability 8.9) has 101376 bytes of shared memory for a block; "
            "166912 are needed",
        ),
    ],
)
def test_the_reason_is_about_the_device_asked_for(monkeypatch, count, device, reason):
    driver = SimpleNamespace(
        device_count=lambda: count,
        device_capability=[(7, 5), (9, 0), (8, 9), (8, 0)].__getitem__,
        device_shared_bytes=[65536, 232448, 101376, 166912].__getitem__,
        CudaError=OSError,
    )
    monkeypatch.setattr(kernels, "_extension", driver)
    assert kernels.unavailable_reason(device) == reason


NO_DRIVER = "no NVIDIA driver is installed (libcuda.so.1)"
NOT_BUILT = "the CUDA extension is not built; run scripts/build_kernels.sh"


def _copy_without_extension(folder):
    (folder / "kernels").mkdir()
    for source in (ROOT / "kernels").glob("*.py"):
        shutil.copy(source, folder / "kernels")


def test_without_the_extension_the_reason_names_the_build_script(tmp_path):
    _copy_without_extension(tmp_path)
    code = (
        "import kernels\n"
        "print(kernels.unavailable_reason())\n"
        "try:\n    kernels.rms_norm\nexcept AttributeError as error:\n    print(error)"
    )
    first, second = _print_of(code, tmp_path).splitlines()
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert first == f"{NOT_BUILT}; {NO_DRIVER}"
    else:
        assert first == NOT_BUILT
    assert second == f"kernels.rms_norm: {first}"


def test_an_extension_that_does_not_load_says_why(tmp_path):
    _copy_without_extension(tmp_path)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (tmp_path / "kernels" / f"_kernels{suffix}").write_bytes(b"no library")
    reason = _print_of("import kernels; print(kernels.unavailable_reason())", tmp_path)
    assert reason.startswith("the CUDA extension cannot be loaded: ")
    assert "invalid ELF header" in reason or "file too short" in reason
