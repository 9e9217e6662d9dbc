// Products where each row has a weight of its own.
#pragma once
#include "product.h"

namespace {

int32_t experts(const mm_weight* w, int64_t count, const int32_t* chosen, const mm_product_call* c) {
  for (int64_t i = 0; i < c->m; i++) {
    if (chosen[i] < 0 || chosen[i] >= count) return MM_UNSUPPORTED;
    mm_weight one = *w;
    const int64_t groups = w->group_size ? w->rows * (w->cols / w->group_size) : 0;
    const int64_t scale = w->kind == MM_AFFINE ? (w->type == MM_FLOAT32 ? 4 : 2) : 1;
    const int64_t bytes = w->kind == MM_ROWS ? w->rows * w->cols * (w->type == MM_FLOAT32 ? 4 : 2)
                                             : w->rows * words_per_row(*w) * 4;
    one.data = static_cast<const char*>(w->data) + chosen[i] * bytes;
    if (w->scales) one.scales = static_cast<const char*>(w->scales) + chosen[i] * groups * scale;
    if (w->biases) one.biases = static_cast<const char*>(w->biases) + chosen[i] * groups * scale;
    mm_product_call row = *c;
    row.x += i * c->ldx, row.y += i * c->ldy, row.m = 1;
    if (c->residual) row.residual += i * c->ldr;
    if (const int32_t status = product(&one, &row)) return status;
  }
  return MM_OK;
}

}  // namespace
