"""The C interface of native/mlx_mm_native.h: the same names, numbers and fields."""

import ctypes

VERSION = 1

FLOAT32, FLOAT16, BFLOAT16 = range(3)
NONE, GELU_ERF, GELU_TANH, QUICK_GELU, SILU, RELU = range(6)
PACKED, ROWS, AFFINE, MXFP4, MXFP8, NVFP4, AFFINE_PACKED = range(7)
INPUTS_EXACT, INPUTS_FAST, INPUTS_FINE = range(3)
PEAK_FLOATS, PEAK_BYTES, PEAK_MEMORY = range(3)
OK, NO_MEMORY, UNSUPPORTED = range(3)
STATUS = {NO_MEMORY: "there is not enough memory for a kernel", UNSUPPORTED: "a kernel does not know what it was given"}

_int, _long, _float, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class Weight(ctypes.Structure):
    """mm_weight."""

    _fields_ = (
        *((name, _int) for name in ("kind", "type", "bits", "group_size")),
        *((name, _long) for name in ("rows", "cols")),
        *((name, _pointer) for name in ("data", "scales", "biases")),
    )


class ProductCall(ctypes.Structure):
    """mm_product_call."""

    _fields_ = (
        ("x", _pointer),
        ("m", _long),
        ("ldx", _long),
        ("bias", _pointer),
        ("residual", _pointer),
        ("ldr", _long),
        ("y", _pointer),
        ("ldy", _long),
        ("activation", _int),
        ("inputs", _int),
    )


class AttentionCall(ctypes.Structure):
    """mm_attention_call."""

    _fields_ = (
        *((name, _pointer) for name in ("q", "k", "v", "out")),
        *((name, _long) for name in ("batch", "heads", "kv_heads", "length", "keys", "width", "value_width")),
        *((name, _long * 3) for name in ("q_strides", "k_strides", "v_strides", "out_strides")),
        ("mask", _pointer),
        ("mask_strides", _long * 4),
        ("mask_type", _int),
        ("causal", _int),
        ("scale", _float),
    )


class RotateCall(ctypes.Structure):
    """mm_rotate_call."""

    _fields_ = (
        *((name, _pointer) for name in ("x", "cos", "sin", "y")),
        *((name, _long) for name in ("batch", "length", "heads", "width", "dims")),
        ("x_strides", _long * 3),
        ("y_strides", _long * 3),
        ("table_strides", _long * 2),
        ("neighbours", _int),
    )


class MelCall(ctypes.Structure):
    """mm_mel_call."""

    _fields_ = (
        *((name, _pointer) for name in ("samples", "window", "cosines")),
        *((name, _long) for name in ("frames", "hop", "size", "filters", "first_bin", "last_bin")),
        *((name, _pointer) for name in ("starts", "lengths", "weights", "y")),
    )


class RoundCall(ctypes.Structure):
    """mm_round_call."""

    _fields_ = (
        *((name, _pointer) for name in ("x", "earlier")),
        *((name, ctypes.POINTER(_pointer)) for name in ("before", "apart", "within")),
        *((name, _pointer) for name in ("shares", "cuts", "packed", "scales", "biases")),
        *((name, _long) for name in ("rows", "groups", "size", "pairs")),
        *((name, _int) for name in ("refits", "bits", "type")),
    )


_WEIGHT, _PRODUCT = ctypes.POINTER(Weight), ctypes.POINTER(ProductCall)

FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "mm_version": (_int, []),
    "mm_instruction_sets": (ctypes.c_char_p, []),
    "mm_choose": (_int, [ctypes.c_char_p]),
    "mm_set_threads": (None, [_int]),
    "mm_threads": (_int, []),
    "mm_panel": (_long, []),
    "mm_pack": (_int, [_WEIGHT, _pointer]),
    "mm_product": (_int, [_WEIGHT, _PRODUCT]),
    "mm_experts": (_int, [_WEIGHT, _long, _pointer, _PRODUCT]),
    "mm_attention": (_int, [ctypes.POINTER(AttentionCall)]),
    "mm_layer_norm": (_int, [_pointer, _long, _long, _pointer, _pointer, _float, _pointer, _pointer]),
    "mm_rms_norm": (_int, [_pointer, _long, _long, _pointer, _float, _pointer, _pointer]),
    "mm_activation": (_int, [_int, _pointer, _long, _pointer]),
    "mm_gated": (_int, [_int, _pointer, _long, _pointer, _long, _long, _long, _pointer]),
    "mm_rotate": (_int, [ctypes.POINTER(RotateCall)]),
    "mm_peak": (ctypes.c_double, [_int]),
    "mm_mel": (_int, [ctypes.POINTER(MelCall)]),
    "mm_round": (_int, [ctypes.POINTER(RoundCall)]),
    "mm_patches": (_int, [_pointer, _long, _long, _long, _long, _long, _pointer]),
    "mm_scan": (_int, [_pointer, _long, _long, _pointer, _pointer, _long, _pointer]),
    "mm_take_rows": (_int, [_pointer, _long, _long, _long, _pointer, _long, _pointer]),
}


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types of all functions; AttributeError where the library lacks one."""
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
