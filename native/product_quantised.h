// Products with a quantised weight, whose inputs are rounded to 8 (or 16) bits.
#pragma once
#include "weights.h"

namespace {

static bool quantised_product_serves(const mm_weight&, const mm_product_call&) { return false; }

static int32_t product_quantised(const mm_weight*, const mm_product_call*) { return MM_UNSUPPORTED; }

}  // namespace
