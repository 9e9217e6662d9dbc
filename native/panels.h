// Panels: kPanel rows of a weight as float32 (cols, kPanel). They lie packed, or are unpacked when they are needed.
//
// Rows are unpacked W at a time. First their 32-bit words are transposed, so that each number of a vector is of another
// row. From then on numbers of all kinds are got by shifts and masks that are the same for each row.
#pragma once
#include "pool.h"
#include "weights.h"

namespace {

constexpr int64_t kPanel = 3 * W;
// Numbers of a row that are unpacked at once: 16 bytes for each bit of one, so that words come in fours.
constexpr int64_t kUnit = 128;

MM_INLINE int bits_of_number(const mm_weight& w) {
  switch (w.kind) {
    case MM_ROWS: return w.type == MM_FLOAT32 ? 32 : 16;
    case MM_AFFINE: return w.bits;
    case MM_MXFP8: return 8;
    default: return 4;
  }
}

// Whether the numbers of a weight can be unpacked: groups are whole words, and do not cross units.
MM_INLINE bool can_unpack(const mm_weight& w) {
  if (w.kind == MM_ROWS) return true;
  const int bits = bits_of_number(w);
  if (w.kind < MM_AFFINE || w.kind > MM_NVFP4 || bits < 2 || bits > 8 || bits == 7) return false;
  return w.group_size >= (w.kind == MM_NVFP4 ? 16 : 32) && kUnit % w.group_size == 0 && w.cols % w.group_size == 0;
}

// Rows from `first` on, of which W are unpacked together; beyond `count` they are zeros.
struct Rows {
  const mm_weight* weight;
  int64_t first, count;
};

// Numbers k to k + n, n <= kUnit, of each row beside each other: lines of kUnit numbers, filled up with zeros.
template <int kBits>
MM_INLINE void copy_lines(const Rows& rows, int64_t k, int64_t n, char* lines) {
  constexpr int64_t line = kUnit * kBits / 8;
  const int64_t row = rows.weight->cols * kBits / 8;
  const char* p = static_cast<const char*>(rows.weight->data) + rows.first * row + k * kBits / 8;
  for (int64_t i = 0; i < W; i++, p += row) {
    const int64_t bytes = i < rows.count ? n * kBits / 8 : 0;
    for (int64_t j = 0; j < bytes; j += 64) __builtin_prefetch(p + line + j, 0, 2);  // what is copied next
    if (bytes == line) {
      memcpy(lines + i * line, p, line);
    } else {
      memcpy(lines + i * line, p, bytes);
      memset(lines + i * line + bytes, 0, line - bytes);
    }
  }
}

// Number i of each row, of the words that begin with number 0.
template <int kBits>
MM_INLINE vu code(const vu* words, int64_t i) {
  const int64_t word = i * kBits / 32;
  const int shift = i * kBits % 32;
  vu v = words[word] >> shift;
  if (shift + kBits == 32) return v;
  if (shift + kBits > 32) v |= words[word + 1] << (32 - shift);
  return v & ((1u << kBits % 32) - 1);
}

// y[i * kPanel] = number(code i) for `count` numbers, which fill whole words.
template <int kCount, int kBits, class Number>
MM_INLINE void unpack_codes(const vu* words, float* y, const Number& number) {
#pragma GCC unroll 32
  for (int i = 0; i < kCount; i++) store(y + i * kPanel, number(code<kBits>(words, i)));
}

template <int kBytes>
MM_INLINE vu group_codes(const Rows& rows, const void* scales, int64_t k) {
  const int64_t groups = rows.weight->cols / rows.weight->group_size;
  const uint8_t* p = static_cast<const uint8_t*>(scales) + (rows.first * groups + k / rows.weight->group_size) * kBytes;
  uint32_t codes[W] = {};
  for (int64_t i = 0; i < least(W, rows.count); i++) memcpy(&codes[i], p + i * groups * kBytes, kBytes);
  vu v;
  memcpy(&v, codes, sizeof v);
  return v;
}

// The scales or biases of the groups that column k belongs to.
MM_INLINE vf group_numbers(const Rows& rows, const void* scales, int64_t k) {
  switch (rows.weight->kind) {
    case MM_MXFP4:
    case MM_MXFP8: return e8m0s(group_codes<1>(rows, scales, k));
    case MM_NVFP4: return e4m3s(group_codes<1>(rows, scales, k));
  }
  switch (rows.weight->type) {
    case MM_FLOAT16: return float16s(group_codes<2>(rows, scales, k));
    case MM_BFLOAT16: return bfloat16s(group_codes<2>(rows, scales, k));
    default: return reinterpret_cast<vf>(group_codes<4>(rows, scales, k));
  }
}

// number(code, scale, bias)
template <int kBits, class Number>
MM_INLINE void unpack_groups(const Rows& rows, int64_t k, int64_t n, float* y, const Number& number) {
  constexpr int kTogether = kBits % 4 ? 32 : 16;  // numbers in whole words
  constexpr int64_t line = kUnit * kBits / 8;
  alignas(64) char lines[W * line];
  vu words[line / 4];  // of each row
  copy_lines<kBits>(rows, k, n, lines);
  for (int64_t i = 0; i < line; i += 16) transpose_fours(lines + i, line, words + i / 4);
  for (int64_t from = 0; from < n; from += rows.weight->group_size) {
    const vf scale = group_numbers(rows, rows.weight->scales, k + from);
    const vf bias = rows.weight->biases ? group_numbers(rows, rows.weight->biases, k + from) : vf{};
    for (int64_t i = from; i < from + rows.weight->group_size; i += kTogether)
      unpack_codes<kTogether, kBits>(words + i * kBits / 32, y + i * kPanel,
                                     [=](vu v) __attribute__((always_inline)) { return number(v, scale, bias); });
  }
}
template <int kBits>
MM_KERNEL void unpack_affine(const Rows& rows, int64_t k, int64_t n, float* y) {
  unpack_groups<kBits>(rows, k, n, y, [](vu v, vf scale, vf bias) __attribute__((always_inline)) {
    return __builtin_convertvector(reinterpret_cast<vi>(v), vf) * scale + bias;
  });
}
MM_KERNEL void unpack_fp4(const Rows& rows, int64_t k, int64_t n, float* y) {
  unpack_groups<4>(rows, k, n, y, [](vu v, vf scale, vf) __attribute__((always_inline)) { return e2m1s(v) * scale; });
}
MM_KERNEL void unpack_fp8(const Rows& rows, int64_t k, int64_t n, float* y) {
  unpack_groups<8>(rows, k, n, y, [](vu v, vf scale, vf) __attribute__((always_inline)) { return e4m3s(v) * scale; });
}
template <int kBits, class Number>
MM_INLINE void unpack_rows(const Rows& rows, int64_t k, int64_t n, float* y, const Number& number) {
  constexpr int64_t line = kUnit * kBits / 8, together = 128 / kBits;
  alignas(64) char lines[W * line];
  copy_lines<kBits>(rows, k, n, lines);
  for (int64_t i = 0; i < n; i += together) {
    vu words[4];
    transpose_fours(lines + i * kBits / 8, line, words);
    unpack_codes<together, kBits>(words, y + i * kPanel, number);
  }
}
MM_KERNEL void unpack_float32(const Rows& rows, int64_t k, int64_t n, float* y) {
  unpack_rows<32>(rows, k, n, y, [](vu v) __attribute__((always_inline)) { return reinterpret_cast<vf>(v); });
}
MM_KERNEL void unpack_float16(const Rows& rows, int64_t k, int64_t n, float* y) {
  unpack_rows<16>(rows, k, n, y, [](vu v) __attribute__((always_inline)) { return float16s(v); });
}
MM_KERNEL void unpack_bfloat16(const Rows& rows, int64_t k, int64_t n, float* y) {
  unpack_rows<16>(rows, k, n, y, [](vu v) __attribute__((always_inline)) { return bfloat16s(v); });
}

typedef void (*Unpack)(const Rows& rows, int64_t k, int64_t n, float* y);

MM_INLINE Unpack unpack_of(const mm_weight& w) {
  switch (w.kind) {
    case MM_ROWS: return w.type == MM_FLOAT32 ? unpack_float32 : w.type == MM_FLOAT16 ? unpack_float16 : unpack_bfloat16;
    case MM_MXFP8: return unpack_fp8;
    case MM_MXFP4:
    case MM_NVFP4: return unpack_fp4;
  }
  switch (w.bits) {
    case 2: return unpack_affine<2>;
    case 3: return unpack_affine<3>;
    case 4: return unpack_affine<4>;
    case 5: return unpack_affine<5>;
    case 6: return unpack_affine<6>;
    default: return unpack_affine<8>;
  }
}

// y (n, kPanel): numbers k to k + n, of which k is a multiple of kUnit, of the rows of a panel. Numbers up to the next
// multiple of kUnit may be overwritten.
MM_INLINE void unpack_panel(const mm_weight& w, Unpack unpack, int64_t panel, int64_t k, int64_t n, float* y) {
  for (int64_t at = 0; at < n; at += kUnit)
    for (int64_t j = 0; j < kPanel; j += W) {
      const int64_t first = panel * kPanel + j, count = w.rows - first;
      unpack({&w, first, count < 0 ? 0 : count}, k + at, least(kUnit, n - at), y + at * kPanel + j);
    }
}

int32_t pack(const mm_weight* w, float* packed) {
  if (!can_unpack(*w)) return MM_UNSUPPORTED;
  const Unpack unpack = unpack_of(*w);
  mm::parallel(ceil_div(w->rows, kPanel), [=](int64_t panel) {
    const int64_t whole = w->cols / kUnit * kUnit, rest = w->cols - whole;
    float* y = packed + panel * kPanel * w->cols;
    unpack_panel(*w, unpack, panel, 0, whole, y);
    alignas(64) float last[kUnit * kPanel];
    unpack_panel(*w, unpack, panel, whole, rest, last);
    memcpy(y + whole * kPanel, last, rest * kPanel * sizeof *y);
  });
  return MM_OK;
}

}  // namespace
