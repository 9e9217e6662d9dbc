// Products with a weight that is stored in one way or another.
#pragma once
#include "product_float.h"
#include "product_quantised.h"

namespace {

int32_t product(const mm_weight* w, const mm_product_call* c) {
  const bool quantised = w->kind != MM_PACKED && w->kind != MM_ROWS;
  if (quantised && c->inputs != MM_EXACT && quantised_product_serves(*w, *c)) return product_quantised(w, c);
  return product_float(w, c);
}

}  // namespace
