// Attention with masks of every kind, grouped heads and any strides.
#include "../mlx_mm_native.h"
#include "tests.h"

namespace {

enum { kNoMask, kBytes, kFloats, kCausal, kCausalBytes, kMasks };
const char* const kMaskNames[] = {"no mask", "bytes", "floats", "causal", "causal and bytes"};

struct Shape {
  int64_t batch, heads, kv_heads, length, keys, width, value_width;
};

// (batch, heads, rows, width) with heads beside each other in a row, or after each other.
struct Heads {
  Heads(int64_t batch, int64_t heads, int64_t rows, int64_t width, bool beside, int64_t gap = 0)
      : step(width + gap), numbers((batch * heads * rows - 1) * step + width) {
    strides[0] = heads * rows * step;
    strides[1] = beside ? step : rows * step;
    strides[2] = beside ? heads * step : step;
  }
  int64_t at(int64_t b, int64_t h, int64_t l) const { return b * strides[0] + h * strides[1] + l * strides[2]; }
  int64_t step, strides[3];
  Buffer<float> numbers;
};

class Case {
 public:
  Case(const Shape& s, int mask, bool beside, Random& random)
      : s(s),
        q(s.batch, s.heads, s.length, s.width, beside, 3),
        k(s.batch, s.kv_heads, s.keys, s.width, beside),
        v(s.batch, s.kv_heads, s.keys, s.value_width, beside, 1),
        out(s.batch, s.heads, s.length, s.value_width, !beside, 2),
        bytes(mask == kBytes || mask == kCausalBytes ? s.batch * s.keys : 0),
        floats(mask == kFloats ? s.heads * s.length * s.keys : 0) {
    for (Heads* part : {&q, &k, &v}) random.fill(part->numbers);
    spoil(out.numbers);
    for (int64_t i = 0; i < bytes.size(); i++) bytes[i] = random.below(3) > 0 || i % s.keys == 0;  // never none at all
    for (int64_t i = 0; i < floats.size(); i++) floats[i] = random.below(4) ? random.normal() : -1e9f;
    call = {};
    call.q = q.numbers.get(), call.k = k.numbers.get(), call.v = v.numbers.get(), call.out = out.numbers.get();
    call.batch = s.batch, call.heads = s.heads, call.kv_heads = s.kv_heads, call.length = s.length, call.keys = s.keys;
    call.width = s.width, call.value_width = s.value_width, call.scale = float(1 / sqrt(double(s.width)));
    copy(call.q_strides, q), copy(call.k_strides, k), copy(call.v_strides, v), copy(call.out_strides, out);
    call.causal = mask == kCausal || mask == kCausalBytes;
    if (bytes.size()) call.mask = bytes.get(), call.mask_type = 1, call.mask_strides[0] = s.keys;
    if (floats.size()) {
      call.mask = floats.get(), call.mask_type = 2;
      call.mask_strides[1] = s.length * s.keys, call.mask_strides[2] = s.keys;
    }
    if (call.mask) call.mask_strides[3] = 1;
  }

  void compare() const {
    std::vector<double> weights(s.keys);
    for (int64_t b = 0; b < s.batch; b++)
      for (int64_t h = 0; h < s.heads; h++)
        for (int64_t l = 0; l < s.length; l++) {
          const double total = scores(b, h, l, weights);
          for (int64_t i = 0; i < s.value_width; i++) {
            double sum = 0;
            for (int64_t j = 0; j < s.keys; j++)
              sum += weights[j] * v.numbers[v.at(b, h / (s.heads / s.kv_heads), j) + i];
            if (!expect(fabs(out.numbers[out.at(b, h, l) + i] - sum / total) <= 1e-5, "a number is wrong")) return;
          }
        }
  }

  // All but one head's one row, of whose query a number is NaN, are as they were.
  void spread_nan(Random& random) {
    const std::vector<float> before(out.numbers.get(), out.numbers.get() + out.numbers.size());
    const int64_t b = random.below(s.batch), h = random.below(s.heads), l = random.below(s.length);
    q.numbers[q.at(b, h, l) + random.below(s.width)] = NAN;
    expect(mm_attention(&call) == MM_OK, "status");
    const int64_t first = out.at(b, h, l);
    for (int64_t i = 0; i < out.numbers.size(); i++) {
      const float now = out.numbers[i];
      if (i >= first && i < first + s.value_width) expect(now != now, "NaN was lost");
      else if (!expect(!memcmp(&now, &before[i], sizeof now), "NaN in one query changed another's row")) return;
    }
  }

  const Shape s;
  Heads q, k, v, out;
  Buffer<uint8_t> bytes;
  Buffer<float> floats;
  mm_attention_call call;

 private:
  static void copy(int64_t* to, const Heads& from) { memcpy(to, from.strides, sizeof from.strides); }

  double scores(int64_t b, int64_t h, int64_t l, std::vector<double>& weights) const {
    double most = -INFINITY, total = 0;
    for (int64_t j = 0; j < s.keys; j++) {
      double dot = 0;
      for (int64_t i = 0; i < s.width; i++)
        dot += double(q.numbers[q.at(b, h, l) + i]) * k.numbers[k.at(b, h / (s.heads / s.kv_heads), j) + i];
      dot *= call.scale;
      if (floats.size()) dot += floats[(h * s.length + l) * s.keys + j];
      if (bytes.size() && !bytes[b * s.keys + j]) dot = -INFINITY;
      if (call.causal && j > s.keys - s.length + l) dot = -INFINITY;
      weights[j] = dot;
      most = fmax(most, dot);
    }
    for (double& weight : weights) total += weight = exp(weight - most);
    return total;
  }
};

}  // namespace

void test_attentions(bool few, Random& random) {
  for (int64_t width : few ? Sizes{24, 80} : Sizes{8, 16, 24, 32, 64, 72, 80, 128})
    for (int64_t length : few ? Sizes{1, 19} : Sizes{1, 2, 7, 16, 33, 70})
      for (int mask = 0; mask < kMasks; mask++) {
        const int64_t kv_heads = 1 + random.below(3), heads = kv_heads * (1 + random.below(3));
        const int64_t keys = length + (random.below(3) ? random.below(150) : 0);
        const int64_t value_width = random.below(2) ? width : 1 + random.below(100);
        const Shape s = {1 + random.below(2), heads, kv_heads, length, keys, width, value_width};
        begin("mm_attention, %s, batch %d, heads %d over %d, queries %d, keys %d, widths %d and %d", kMaskNames[mask],
              int(s.batch), int(heads), int(kv_heads), int(length), int(keys), int(width), int(value_width));
        Case c(s, mask, random.below(2) > 0, random);
        if (!expect(mm_attention(&c.call) == MM_OK, "status")) continue;
        c.compare();
        c.spread_nan(random);
      }
}
