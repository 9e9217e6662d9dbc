// Weights of every kind, with the numbers that they stand for in double precision, read bit by bit.
#pragma once
#include <memory>

#include "../mlx_mm_native.h"
#include "testing.h"

struct Kind {
  const char* name;
  int32_t kind, type, bits, group;
};

// All that a product takes.
inline const Kind kKinds[] = {
    {"float32", MM_ROWS, MM_FLOAT32, 0, 0},
    {"float16", MM_ROWS, MM_FLOAT16, 0, 0},
    {"bfloat16", MM_ROWS, MM_BFLOAT16, 0, 0},
    {"packed", MM_PACKED, MM_FLOAT32, 0, 0},
    {"2 bits", MM_AFFINE, MM_FLOAT32, 2, 32},
    {"2 bits of 64", MM_AFFINE, MM_BFLOAT16, 2, 64},
    {"3 bits", MM_AFFINE, MM_FLOAT16, 3, 64},
    {"3 bits of 32", MM_AFFINE, MM_FLOAT32, 3, 32},
    {"4 bits", MM_AFFINE, MM_FLOAT32, 4, 64},
    {"4 bits of 32", MM_AFFINE, MM_FLOAT16, 4, 32},
    {"4 bits of 128", MM_AFFINE, MM_BFLOAT16, 4, 128},
    {"5 bits", MM_AFFINE, MM_BFLOAT16, 5, 64},
    {"5 bits of 128", MM_AFFINE, MM_FLOAT32, 5, 128},
    {"6 bits", MM_AFFINE, MM_FLOAT16, 6, 64},
    {"6 bits of 32", MM_AFFINE, MM_FLOAT32, 6, 32},
    {"8 bits", MM_AFFINE, MM_FLOAT32, 8, 64},
    {"8 bits of 32", MM_AFFINE, MM_BFLOAT16, 8, 32},
    {"8 bits of 128", MM_AFFINE, MM_FLOAT16, 8, 128},
    {"mxfp4", MM_MXFP4, MM_FLOAT32, 4, 32},
    {"mxfp8", MM_MXFP8, MM_FLOAT32, 8, 32},
    {"nvfp4", MM_NVFP4, MM_FLOAT32, 4, 16},
};

inline double small_float(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const double mantissa = double(bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits);
  const double size = exponent ? ldexp(1 + mantissa, exponent - bias) : ldexp(mantissa, 1 - bias);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -size : size;
}

class Stored {
 public:
  // `count` weights (rows, cols), one after the other; `numbers` and `sizes` are all of them.
  Stored(const Kind& kind, int64_t rows, int64_t cols, Random& random, int64_t count = 1)
      : kind(kind), rows(rows), cols(cols), numbers(count * rows * cols), sizes(count * rows * cols) {
    weight = {kind.kind, kind.type, kind.bits, kind.group, rows, cols, nullptr, nullptr, nullptr};
    if (!kind.group) make_rows(random);
    else make_groups(count * rows, random);
  }

  mm_weight weight;
  const Kind kind;
  const int64_t rows, cols;
  std::vector<double> numbers, sizes;  // sizes: of the parts that a number is the sum of

 private:
  void make_rows(Random& random) {
    data_ = std::make_unique<Buffer<char>>(numbers.size() * (kind.type == MM_FLOAT32 ? 4 : 2));
    weight.data = data_->get();
    for (size_t i = 0; i < numbers.size(); i++) sizes[i] = fabs(numbers[i] = put(*data_, i, random.normal() * 0.5));
    if (kind.kind != MM_PACKED) return;
    const int64_t panel = mm_panel(), panels = (rows + panel - 1) / panel;
    packed_ = std::make_unique<Buffer<float>>(panels * panel * cols);
    spoil(*packed_);
    weight.kind = MM_ROWS;
    expect(mm_pack(&weight, packed_->get()) == MM_OK, "mm_pack");
    weight.kind = MM_PACKED, weight.data = packed_->get();
  }

  void make_groups(int64_t all_rows, Random& random) {
    const bool affine = kind.kind == MM_AFFINE;
    const int64_t groups = cols / kind.group, bytes = cols * kind.bits / 8;
    data_ = std::make_unique<Buffer<char>>(all_rows * bytes);
    scales_ = std::make_unique<Buffer<char>>(all_rows * groups * (!affine ? 1 : kind.type == MM_FLOAT32 ? 4 : 2));
    biases_ = std::make_unique<Buffer<char>>(affine ? all_rows * groups * (kind.type == MM_FLOAT32 ? 4 : 2) : 0);
    weight.data = data_->get(), weight.scales = scales_->get(), weight.biases = affine ? biases_->get() : nullptr;
    for (int64_t i = 0; i < data_->size(); i++) {
      do (*data_)[i] = char(random.bits() >> 8);
      while (kind.kind == MM_MXFP8 && ((*data_)[i] & 0x7f) > 0x67);  // no NaN, and none of the few far above the rest
    }
    for (int64_t r = 0; r < all_rows; r++)
      for (int64_t g = 0; g < groups; g++) make_group(r, g, groups, bytes, random);
  }

  void make_group(int64_t r, int64_t g, int64_t groups, int64_t bytes, Random& random) {
    const int64_t at = r * groups + g;
    double scale, bias = 0;
    if (kind.kind == MM_AFFINE) {  // numbers from about -1 to 1, as the converter makes them
      scale = put(*scales_, at, (0.7 + 0.6 * random.uniform()) * 2 / (1 << kind.bits));
      bias = put(*biases_, at, -1 + 0.2 * random.normal());
    } else if (kind.kind == MM_NVFP4) {
      scale = small_float(uint8_t((*scales_)[at] = char(0x18 + random.below(0x20))), 4, 3);
    } else {
      scale = ldexp(1, ((*scales_)[at] = char(122 + random.below(5))) - 127);
    }
    for (int64_t i = 0; i < kind.group; i++) {
      const int64_t col = g * kind.group + i;
      uint32_t code = 0;
      for (int b = 0; b < kind.bits; b++) {
        const int64_t bit = col * kind.bits + b;
        code |= uint32_t((*data_)[r * bytes + bit / 8] >> bit % 8 & 1) << b;
      }
      const double value = kind.kind == MM_AFFINE    ? code
                           : kind.kind == MM_MXFP8 ? small_float(code, 4, 3)
                                                     : small_float(code, 2, 1);
      numbers[r * cols + col] = scale * value + bias;
      sizes[r * cols + col] = fabs(scale * value) + fabs(bias);
    }
  }

  // Writes x in the weight's type, and returns what is there then: 16-bit types lose the digits that they lack.
  double put(Buffer<char>& where, int64_t i, double x) const {
    const float single = float(x);
    uint32_t bits;
    memcpy(&bits, &single, 4);
    if (kind.type == MM_FLOAT32) {
      memcpy(where.get() + i * 4, &bits, 4);
      return single;
    }
    if (kind.type == MM_BFLOAT16) {
      const uint16_t half = bits >> 16;
      memcpy(where.get() + i * 2, &half, 2);
      bits &= 0xffff0000;
      float kept;
      memcpy(&kept, &bits, 4);
      return kept;
    }
    int exponent;
    const double fraction = frexp(fabs(x), &exponent);  // x = fraction 2^exponent, from 1/2 to 1
    uint16_t half = x < 0 ? 0x8000 : 0;
    if (exponent < -13) half |= uint16_t(ldexp(fabs(x), 24));
    else half |= uint16_t((exponent + 14) << 10) + (uint16_t(ldexp(fraction, 11)) & 0x3ff);
    memcpy(where.get() + i * 2, &half, 2);
    return small_float(half, 5, 10);
  }

  std::unique_ptr<Buffer<char>> data_, scales_, biases_;
  std::unique_ptr<Buffer<float>> packed_;
};
