// Norms, activations, gates, rotary positions, patches.
#include "../mlx_mm_native.h"
#include "tests.h"

namespace {

void expect_close(const Buffer<float>& found, const std::vector<double>& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); i++)
    if (!expect(fabs(found[i] - expected[i]) <= tolerance * (1 + fabs(expected[i])), "a number is wrong")) return;
}

void test_norm(bool rms, int64_t rows, int64_t cols, int given, Random& random) {
  const bool weighted = given & 1, biased = given & 2 && !rms, added = given & 4;
  begin("%s, (%d, %d), weight %d, bias %d, residual %d", rms ? "mm_rms_norm" : "mm_layer_norm", int(rows), int(cols),
        weighted, biased, added);
  Buffer<float> x(rows * cols), weight(cols), bias(cols), residual(rows * cols), y(rows * cols);
  for (Buffer<float>* part : {&x, &weight, &bias, &residual}) random.fill(*part);
  for (int64_t i = 0; i < x.size(); i++) x[i] += 3;  // a mean that is not 0
  const double eps = 1e-6;
  const auto run = [&] {
    const float *w = weighted ? weight.get() : nullptr, *b = biased ? bias.get() : nullptr;
    const float* r = added ? residual.get() : nullptr;
    return rms ? mm_rms_norm(x.get(), rows, cols, w, float(eps), r, y.get())
               : mm_layer_norm(x.get(), rows, cols, w, b, float(eps), r, y.get());
  };
  if (!expect(run() == MM_OK, "status")) return;
  std::vector<double> expected(rows * cols);
  for (int64_t i = 0; i < rows; i++) {
    double mean = 0, square = 0;
    for (int64_t j = 0; j < cols && !rms; j++) mean += x[i * cols + j] / double(cols);
    for (int64_t j = 0; j < cols; j++) square += (x[i * cols + j] - mean) * (x[i * cols + j] - mean) / cols;
    for (int64_t j = 0; j < cols; j++)
      expected[i * cols + j] = (x[i * cols + j] - mean) / sqrt(square + eps) * (weighted ? weight[j] : 1) +
                               (biased ? bias[j] : 0) + (added ? residual[i * cols + j] : 0);
  }
  expect_close(y, expected, cols < 3 ? 2e-3 : 1e-5);  // of two numbers nearly alike the mean takes most digits
  const std::vector<float> before(y.get(), y.get() + y.size());
  const int64_t bad = random.below(rows);
  x[bad * cols + random.below(cols)] = NAN;
  expect(run() == MM_OK, "status");
  for (int64_t i = 0; i < y.size(); i++)
    if (!expect(i / cols == bad ? y[i] != y[i] : !memcmp(&y[i], &before[i], 4), "NaN in one row")) return;
}

void test_activation(int kind, int64_t count, Random& random) {
  begin("mm_activation %d of %d", kind, int(count));
  Buffer<float> x(count), y(count);
  random.fill(x);
  for (int64_t i = 0; i < count; i++) x[i] *= i % 7 ? 2 : 20;
  if (count > 3) x[1] = NAN, x[2] = INFINITY;
  if (!expect(mm_activation(kind, x.get(), count, y.get()) == MM_OK, "status")) return;
  if (count > 3) {
    expect(y[1] != y[1] && y[2] == INFINITY, "NaN or infinity");
    x[1] = y[1] = x[2] = y[2] = 0;
  }
  std::vector<double> expected(count);
  for (int64_t i = 0; i < count; i++) expected[i] = activated(kind, x[i]);
  expect_close(y, expected, 2e-6);
}

void test_gated(int kind, int64_t rows, int64_t cols, bool apart, Random& random) {
  begin("mm_gated %d, (%d, %d), apart %d", kind, int(rows), int(cols), apart);
  const int64_t ldg = cols + (apart ? 5 : 0), ldu = cols + (apart ? 2 : 0);
  Buffer<float> gate((rows - 1) * ldg + cols), up((rows - 1) * ldu + cols), y(rows * cols);
  random.fill(gate), random.fill(up);
  if (!expect(mm_gated(kind, gate.get(), ldg, up.get(), ldu, rows, cols, y.get()) == MM_OK, "status")) return;
  std::vector<double> expected(rows * cols);
  for (int64_t i = 0; i < rows * cols; i++)
    expected[i] = activated(kind, gate[i / cols * ldg + i % cols]) * up[i / cols * ldu + i % cols];
  expect_close(y, expected, 1e-5);
}

void test_rotate(bool neighbours, int64_t width, int64_t dims, bool in_place, bool tables, Random& random) {
  const int64_t batch = 2, length = 1 + random.below(9), heads = 1 + random.below(3), half = dims / 2;
  begin("mm_rotate, neighbours %d, %d of %d, in place %d, %d tables", neighbours, int(dims), int(width), in_place,
        tables ? int(batch) : 1);
  const int64_t step = width + 1, count = (batch * length * heads - 1) * step + width;
  const int64_t table = length * half;
  Buffer<float> x(count), y(count), cos(table * (tables ? batch : 1)), sin(table * (tables ? batch : 1));
  random.fill(x), random.fill(cos), random.fill(sin), spoil(y);
  mm_rotate_call call = {};
  call.x = x.get(), call.y = in_place ? x.get() : y.get(), call.cos = cos.get(), call.sin = sin.get();
  call.batch = batch, call.length = length, call.heads = heads, call.width = width, call.dims = dims;
  const int64_t strides[3] = {length * heads * step, heads * step, step};
  memcpy(call.x_strides, strides, sizeof strides), memcpy(call.y_strides, strides, sizeof strides);
  call.table_strides[0] = tables ? table : 0, call.table_strides[1] = half, call.neighbours = neighbours;
  std::vector<double> expected(count, in_place ? 0 : kUntouched);
  for (int64_t i = 0; i < count; i++)
    if (in_place || i % step < width) expected[i] = x[i];
  for (int64_t row = 0; row < batch * length * heads; row++) {
    const int64_t b = row / (length * heads), l = row / heads % length;
    for (int64_t j = 0; j < half; j++) {
      const int64_t first = row * step + (neighbours ? 2 * j : j), second = first + (neighbours ? 1 : half);
      const int64_t at = (tables ? b * table : 0) + l * half + j;
      const double c = cos[at], s = sin[at];
      expected[first] = x[first] * c - x[second] * s;
      expected[second] = x[second] * c + x[first] * s;
    }
  }
  if (!expect(mm_rotate(&call) == MM_OK, "status")) return;
  expect_close(in_place ? x : y, expected, 1e-5);
}

void test_patches(int64_t channels, int64_t size, int64_t more, Random& random) {
  const int64_t batch = 2, rows = 3, cols = 2;
  const int64_t height = rows * size + more, width = cols * size + more;  // what is left over is cut off
  begin("mm_patches, (%d, %d, %d) in squares of %d", int(height), int(width), int(channels), int(size));
  Buffer<float> x(batch * height * width * channels), y(batch * rows * cols * size * size * channels);
  random.fill(x);
  if (!expect(mm_patches(x.get(), batch, height, width, channels, size, y.get()) == MM_OK, "status")) return;
  for (int64_t i = 0, b = 0; b < batch; b++)
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++)
        for (int64_t dy = 0; dy < size; dy++)
          for (int64_t dx = 0; dx < size; dx++)
            for (int64_t channel = 0; channel < channels; channel++, i++) {
              const int64_t line = b * height + r * size + dy, column = c * size + dx;
              if (!expect(y[i] == x[(line * width + column) * channels + channel], "a number is wrong")) return;
            }
}

void test_scan(int64_t rows, int64_t width, int64_t queries, bool extreme, Random& random) {
  begin("mm_scan, (%d, %d), %d queries, extreme %d", int(rows), int(width), int(queries), extreme);
  Buffer<int8_t> codes(rows * width), high(queries * width), low(queries * width);
  Buffer<float> y(queries * rows);
  for (int64_t i = 0; i < codes.size(); i++) codes[i] = extreme ? int8_t(-128) : int8_t(random.below(256) - 128);
  for (Buffer<int8_t>* part : {&high, &low})
    for (int64_t i = 0; i < part->size(); i++) (*part)[i] = extreme ? int8_t(-127) : int8_t(random.below(255) - 127);
  if (!expect(mm_scan(codes.get(), rows, width, high.get(), low.get(), queries, y.get()) == MM_OK, "status")) return;
  for (int64_t q = 0; q < queries; q++)
    for (int64_t r = 0; r < rows; r++) {
      int64_t sum = 0;
      for (int64_t k = 0; k < width; k++)
        sum += codes[r * width + k] * int64_t(128 * high[q * width + k] + low[q * width + k]);
      if (!expect(y[q * rows + r] == float(sum), "a sum is wrong")) return;
    }
  expect(mm_scan(codes.get(), rows, width - 1, high.get(), low.get(), queries, y.get()) == MM_UNSUPPORTED, "width");
}

}  // namespace

void test_rows(bool few, Random& random) {
  const Sizes widths = few ? Sizes{1, 37, 768} : Sizes{1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 768, 1025, 4304};
  for (int64_t cols : widths)
    for (int64_t rows : {1, 2, 7, 40})
      for (int given = 0; given < 8; given++) {
        test_norm(false, rows, cols, given, random);
        test_norm(true, rows, cols, given, random);
      }
  for (int kind = MM_NONE; kind <= MM_RELU; kind++)
    for (int64_t count : few ? Sizes{1, 35, 17000} : Sizes{1, 3, 16, 37, 16384, 16385, 40000})
      test_activation(kind, count, random);
  for (int kind = MM_NONE; kind <= MM_RELU; kind++)
    for (int64_t cols : widths) test_gated(kind, 1 + random.below(9), cols, random.below(2) > 0, random);
  for (int turn = 0; turn < (few ? 16 : 160); turn++) {
    const int64_t dims = 2 * (1 + random.below(40)), width = dims + (turn & 8 ? random.below(40) : 0);
    test_rotate(turn & 1, width, dims, turn & 2, turn & 4, random);
  }
  for (int64_t width : few ? Sizes{64, 768} : Sizes{64, 128, 448, 768, 4096, 65536})
    for (int64_t rows : {1, 3, 4, 5, 700})
      if (rows * width < 1 << 20)
        for (int64_t queries : {1, 3}) test_scan(rows, width, queries, rows == 5, random);
  for (int64_t size : {1, 2, 14, 16})
    for (int64_t channels : {1, 3, 4})
      for (int64_t more : {0, 1}) test_patches(channels, size, size > 1 ? more : 0, random);
}
