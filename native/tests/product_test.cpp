// Products with weights of every kind, and of several by index.
#include "stored.h"
#include "tests.h"

namespace {

const char* const kInputs[] = {"exact", "fast", "fine"};

struct Given {
  int64_t m;
  int32_t inputs, activation;
  int residual;  // 0 none, 1 an array, 2 the result itself
  bool bias, apart;
};

// A call with all it takes, in buffers of the very size.
struct Call {
  Call(const Stored& w, const Given& g, Random& random)
      : ldx(w.cols + (g.apart ? 3 : 0)), ldy(w.rows + (g.apart ? 5 : 0)), ldr(g.residual == 2 ? ldy : w.rows + 2),
        x((g.m - 1) * ldx + w.cols), y((g.m - 1) * ldy + w.rows), bias(w.rows), residual((g.m - 1) * ldr + w.rows) {
    random.fill(x), random.fill(bias), random.fill(residual), spoil(y);
    if (g.residual == 2)
      for (int64_t i = 0; i < g.m; i++) memcpy(&y[i * ldy], &residual[i * ldy], w.rows * sizeof(float));
    const float* r = g.residual == 2 ? y.get() : g.residual ? residual.get() : nullptr;
    call = {x.get(), g.m, ldx, g.bias ? bias.get() : nullptr, r, ldr, y.get(), ldy, g.activation, g.inputs};
  }
  int64_t ldx, ldy, ldr;
  Buffer<float> x, y, bias, residual;
  mm_product_call call;
};

// Errors against double precision. Of 8-bit inputs one number may be far off by chance, so their sum of squares counts.
void compare(const Stored& w, const Given& g, const Call& c, const std::vector<int32_t>& chosen) {
  double wrong = 0, usual = 0;
  for (int64_t i = 0; i < g.m; i++)
    for (int64_t j = 0; j < w.rows; j++) {
      const double* row = &w.numbers[(chosen[i] * w.rows + j) * w.cols];
      const double* sizes = &w.sizes[(chosen[i] * w.rows + j) * w.cols];
      double sum = g.bias ? c.bias[j] : 0, size = fabs(sum), xx = 0, ww = 0;
      for (int64_t k = 0; k < w.cols; k++) {
        const double x = c.x[i * c.ldx + k];
        sum += x * row[k], size += fabs(x) * sizes[k], xx += x * x, ww += row[k] * row[k];
      }
      const double added = g.residual ? c.residual[i * c.ldr + j] : 0, found = c.y[i * c.ldy + j];
      const double error = found - (activated(g.activation, sum) + added);
      const bool right = g.inputs != MM_EXACT || fabs(error) <= 3e-6 * (size + fabs(added)) + 2e-6;  // false of NaN
      if (!expect(right, "a number is wrong")) return;
      wrong += error * error, usual += xx * ww / w.cols;
    }
  const double bound = g.inputs == MM_FINE && g.m == 1 ? 1e-3 : 2e-2;
  expect(sqrt(wrong) <= bound * sqrt(usual) + 1e-5 * sqrt(double(g.m * w.rows)), "the numbers are wrong");
}

void expect_gaps_untouched(const Stored& w, const Given& g, const Call& c) {
  for (int64_t i = 0; i + 1 < g.m; i++)
    for (int64_t j = w.rows; j < c.ldy; j++) expect(c.y[i * c.ldy + j] == kUntouched, "wrote between rows");
}

bool same_bits(const float* a, const float* b, int64_t count) { return !memcmp(a, b, count * sizeof(float)); }

// A row alone, and beside a row of NaN, has the bits that it has among the others.
void expect_rows_independent(const Stored& w, const Given& g, Call& c, Random& random) {
  Given one = g;
  one.m = 1;
  for (int64_t i : {int64_t(0), g.m / 2, g.m - 1}) {
    Call alone(w, one, random);
    memcpy(alone.x.get(), &c.x[i * c.ldx], w.cols * sizeof(float));
    memcpy(alone.bias.get(), c.bias.get(), w.rows * sizeof(float));
    expect(mm_product(&w.weight, &alone.call) == MM_OK, "status");
    expect(same_bits(alone.y.get(), &c.y[i * c.ldy], w.rows), "a row depends on others");
  }
  std::vector<float> before(c.y.get(), c.y.get() + c.y.size());
  const int64_t bad = random.below(g.m);
  c.x[bad * c.ldx + random.below(w.cols)] = NAN;
  expect(mm_product(&w.weight, &c.call) == MM_OK, "status");
  for (int64_t i = 0; i < g.m; i++) {
    const float* row = &c.y[i * c.ldy];
    if (i != bad) expect(same_bits(row, &before[i * c.ldy], w.rows), "NaN in another row changed a row");
    else
      for (int64_t j = 0; j < w.rows; j++) expect(row[j] != row[j], "NaN was lost");
  }
}

// An array (rows, cols) of 32 bits each, in panels.
void pack(const void* data, int64_t rows, int64_t cols, Buffer<float>& packed) {
  const mm_weight w = {MM_ROWS, MM_FLOAT32, 0, 0, rows, cols, data, nullptr, nullptr};
  spoil(packed);
  expect(mm_pack(&w, packed.get()) == MM_OK, "mm_pack");
}

// Packed, a weight of 4 or 8 bits gives the very same numbers.
void expect_packed_alike(const Stored& w, Call& c) {
  const bool single = w.kind.type == MM_FLOAT32;
  const int64_t panel = mm_panel(), rows = (w.rows + panel - 1) / panel * panel;
  const int64_t words = w.cols * w.kind.bits / 32, groups = w.cols / w.kind.group;
  Buffer<float> data(rows * words), scales(single ? rows * groups : 0), biases(single ? rows * groups : 0);
  mm_weight packed = w.weight;
  pack(packed.data, w.rows, words, data);
  packed.kind = MM_AFFINE_PACKED, packed.data = data.get();
  if (single) {
    pack(packed.scales, w.rows, groups, scales), pack(packed.biases, w.rows, groups, biases);
    packed.scales = scales.get(), packed.biases = biases.get();
  }
  std::vector<float> before(c.y.get(), c.y.get() + c.y.size());
  spoil(c.y);
  expect(mm_product(&packed, &c.call) == MM_OK, "status");
  expect(same_bits(c.y.get(), before.data(), c.y.size()), "a packed weight gives other numbers");
  mm_product_call exact = c.call;
  exact.inputs = MM_EXACT;
  expect(mm_product(&packed, &exact) == MM_UNSUPPORTED, "a packed weight with exact inputs");
}

void test_product(const Kind& kind, int64_t rows, int64_t cols, const Given& g, Random& random) {
  begin("mm_product, %s (%d, %d), %d rows, %s, activation %d, bias %d, residual %d, apart %d", kind.name, int(rows),
        int(cols), int(g.m), kInputs[g.inputs], g.activation, g.bias, g.residual, g.apart);
  const Stored w(kind, rows, cols, random);
  Call c(w, g, random);
  if (!expect(mm_product(&w.weight, &c.call) == MM_OK, "status")) return;
  compare(w, g, c, std::vector<int32_t>(g.m, 0));
  expect_gaps_untouched(w, g, c);
  if (g.inputs == MM_FAST && g.residual != 2 && kind.kind == MM_AFFINE && kind.bits % 4 == 0) expect_packed_alike(w, c);
  if (g.inputs != MM_FINE && !g.residual) expect_rows_independent(w, g, c, random);
}

void test_experts(const Kind& kind, int64_t rows, int64_t cols, int64_t m, int32_t inputs, Random& random) {
  begin("mm_experts, %s (%d, %d), %d rows, %s", kind.name, int(rows), int(cols), int(m), kInputs[inputs]);
  const int64_t count = 5;
  const Given g = {m, inputs, MM_NONE, 0, false, true};
  const Stored w(kind, rows, cols, random, count);
  Call c(w, g, random);
  Buffer<int32_t> chosen(m);
  for (int64_t i = 0; i < m; i++) chosen[i] = int32_t(random.below(count));
  if (!expect(mm_experts(&w.weight, count, chosen.get(), &c.call) == MM_OK, "status")) return;
  compare(w, g, c, std::vector<int32_t>(chosen.get(), chosen.get() + m));
  expect_gaps_untouched(w, g, c);
  for (int32_t bad : {-1, int32_t(count)}) {
    chosen[m - 1] = bad;
    expect(mm_experts(&w.weight, count, chosen.get(), &c.call) == MM_UNSUPPORTED, "a number without a weight");
  }
}

}  // namespace

void test_products(bool few, Random& random) {
  for (const Kind& kind : kKinds)
    for (int64_t n : few ? Sizes{3, 50} : Sizes{1, 3, 16, 33, 97, 130})
      for (int64_t m : few ? Sizes{1, 18} : Sizes{1, 2, 3, 4, 7, 13, 33, 70})
        for (int32_t inputs = MM_EXACT; inputs <= (kind.group ? MM_FINE : MM_EXACT); inputs++) {
          const int64_t k = kind.group ? kind.group * (1 + random.below(5)) : 1 + random.below(200);
          const int residual = int(random.below(3)), activation = int(random.below(6));
          test_product(kind, n, k, {m, inputs, MM_NONE, 0, random.below(2) > 0, true}, random);
          test_product(kind, n, k, {m, inputs, activation, residual, random.below(2) > 0, random.below(2) > 0}, random);
        }
  for (const Kind& kind : kKinds)
    if (kind.kind != MM_PACKED)
      for (int64_t m : {1, 4, 31})
        for (int32_t inputs = MM_EXACT; inputs <= (kind.group ? MM_FINE : MM_EXACT); inputs++)
          test_experts(kind, 1 + random.below(60), kind.group ? 2 * kind.group : 70, m, inputs, random);
}
