// Rows that each take a weight of their own among several (mixtures of experts). A weight serves all its rows at once.
#pragma once
#include "product.h"

namespace {

MM_INLINE int64_t bytes_of(int32_t type) { return type == MM_FLOAT32 ? 4 : 2; }

// Weight number `i` of those that lie one after the other.
static mm_weight expert(const mm_weight& w, int64_t i) {
  mm_weight one = w;
  const int64_t groups = w.group_size ? w.rows * (w.cols / w.group_size) : 0;
  const int64_t scales = groups * (w.kind == MM_AFFINE ? bytes_of(w.type) : 1);
  const int64_t bytes = w.kind == MM_ROWS     ? w.rows * w.cols * bytes_of(w.type)
                        : w.kind == MM_PACKED ? ceil_div(w.rows, kPanel) * kPanel * w.cols * 4
                                              : w.rows * words_per_row(w) * 4;
  one.data = static_cast<const char*>(w.data) + i * bytes;
  if (w.scales) one.scales = static_cast<const char*>(w.scales) + i * scales;
  if (w.biases) one.biases = static_cast<const char*>(w.biases) + i * scales;
  return one;
}

// Rows in the order of their experts, and a group for each expert that has some -> how many have.
static int64_t group_rows(const mm_weight& w, int64_t count, const int32_t* chosen, int64_t rows, int64_t* starts,
                          int32_t* order, Group* groups) {
  for (int64_t e = 0; e <= count; e++) starts[e] = 0;
  for (int64_t i = 0; i < rows; i++) starts[chosen[i] + 1]++;
  int64_t used = 0;
  for (int64_t e = 0; e < count; e++) {
    if (starts[e + 1]) groups[used++] = {expert(w, e), order + starts[e], starts[e + 1]};
    starts[e + 1] += starts[e];
  }
  for (int64_t i = 0; i < rows; i++) order[starts[chosen[i]]++] = int32_t(i);
  return used;
}

// The rows of one group by `product`, from and to memory where they lie together.
static int32_t product_of_group(const Group& g, const mm_product_call* c, float* x, float* y) {
  const mm_weight& w = g.weight;
  for (int64_t i = 0; i < g.count; i++) {
    memcpy(x + i * w.cols, c->x + g.rows[i] * c->ldx, w.cols * sizeof(float));
    if (c->residual) memcpy(y + i * w.rows, c->residual + g.rows[i] * c->ldr, w.rows * sizeof(float));
  }
  const mm_product_call call = {x, g.count, w.cols, c->bias, c->residual ? y : nullptr, w.rows, y, w.rows,
                                c->activation, c->inputs};
  if (const int32_t status = product(&w, &call)) return status;
  for (int64_t i = 0; i < g.count; i++) memcpy(c->y + g.rows[i] * c->ldy, y + i * w.rows, w.rows * sizeof(float));
  return MM_OK;
}

// Groups that `fits` come first; returns how many.
template <class Fits>
MM_INLINE int64_t partition(Group* groups, int64_t count, const Fits& fits) {
  int64_t first = 0;
  for (int64_t i = 0; i < count; i++)
    if (fits(groups[i])) {
      const Group g = groups[first];
      groups[first++] = groups[i];
      groups[i] = g;
    }
  return first;
}

int32_t experts(const mm_weight* w, int64_t count, const int32_t* chosen, const mm_product_call* c) {
  if (w->kind == MM_AFFINE_PACKED) return MM_UNSUPPORTED;
  for (int64_t i = 0; i < c->m; i++)
    if (chosen[i] < 0 || chosen[i] >= count) return MM_UNSUPPORTED;
  Scratch<int64_t> starts(count + 1);
  Scratch<int32_t> order(c->m);
  Scratch<Group> groups(least(count, c->m));
  if (!starts || !order || !groups) return MM_NO_MEMORY;
  const int64_t used = group_rows(*w, count, chosen, c->m, starts.get(), order.get(), groups.get());
  if (quantised_product_serves(*w, *c)) {
    const int64_t few = partition(groups.get(), used, [&](const Group& g) { return has_few_rows(*c, g.count); });
    const int32_t status = multiply_few_rows(groups.get(), few, c);
    return status ? status : multiply_many_rows(groups.get() + few, used - few, c);
  }
  int64_t most = 0;
  for (int64_t g = 0; g < used; g++) most = groups.get()[g].count > most ? groups.get()[g].count : most;
  Scratch<float> x(most * w->cols), y(most * w->rows);
  if (!x || !y) return MM_NO_MEMORY;
  for (int64_t g = 0; g < used; g++)
    if (const int32_t status = product_of_group(groups.get()[g], c, x.get(), y.get())) return status;
  return MM_OK;
}

}  // namespace
