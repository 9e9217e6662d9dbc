// Products with a quantised weight whose inputs may be rounded, the weight as it lies.
#pragma once
#include "matrix_matrix.h"
#include "matrix_vector.h"

namespace {

static bool quantised_product_serves(const mm_weight& w, const mm_product_call& c) {
  const bool groups = is_affine(w) ? w.group_size == 32 || w.group_size == 64 || w.group_size == 128
                                   : w.group_size == 32 || w.group_size == 16;
  const bool bits = w.kind != MM_AFFINE_PACKED || w.bits == 4 || w.bits == 8;
  return c.inputs != MM_EXACT && (is_affine(w) || is_fp4(w)) && groups && bits && w.cols % w.group_size == 0;
}

static bool has_few_rows(const mm_product_call& c, int64_t rows) { return c.inputs == MM_FINE && rows <= kFewRows; }

int32_t product_quantised(const mm_weight* w, const mm_product_call* c) {
  Scratch<int32_t> order(c->m);
  if (!order) return MM_NO_MEMORY;
  for (int64_t i = 0; i < c->m; i++) order.get()[i] = int32_t(i);
  const Group all = {*w, order.get(), c->m};
  const bool few = has_few_rows(*c, c->m) && w->kind != MM_AFFINE_PACKED;
  return few ? multiply_few_rows(&all, c->m ? 1 : 0, c) : multiply_many_rows(&all, c->m ? 1 : 0, c);
}

}  // namespace
