// Attention of one (batch, head) at a time.
#pragma once
#include "functions.h"
#include "pool.h"

namespace {

int32_t attention(const mm_attention_call* c) {
  mm::parallel(c->batch * c->heads, [=](int64_t job) {
    const int64_t b = job / c->heads, h = job % c->heads, kv = h / (c->heads / c->kv_heads);
    Scratch<float> scores(c->keys);
    for (int64_t l = 0; l < c->length; l++) {
      const float* q = c->q + b * c->q_strides[0] + h * c->q_strides[1] + l * c->q_strides[2];
      float* out = c->out + b * c->out_strides[0] + h * c->out_strides[1] + l * c->out_strides[2];
      float most = -INFINITY, total = 0;
      for (int64_t s = 0; s < c->keys; s++) {
        const float* k = c->k + b * c->k_strides[0] + kv * c->k_strides[1] + s * c->k_strides[2];
        float dot = 0;
        for (int64_t i = 0; i < c->width; i++) dot += q[i] * k[i];
        dot *= c->scale;
        const int64_t at = b * c->mask_strides[0] + h * c->mask_strides[1] + l * c->mask_strides[2] + s * c->mask_strides[3];
        if (c->mask_type == 1 && !static_cast<const uint8_t*>(c->mask)[at]) dot = -1e30f;
        if (c->mask_type == 2) dot += static_cast<const float*>(c->mask)[at];
        if (c->causal && s > c->keys - c->length + l) dot = -1e30f;
        scores.get()[s] = dot;
        most = dot > most || dot != dot ? dot : most;
      }
      for (int64_t i = 0; i < c->value_width; i++) out[i] = 0;
      for (int64_t s = 0; s < c->keys; s++) {
        const float weight = expf(scores.get()[s] - most);
        total += weight;
        const float* v = c->v + b * c->v_strides[0] + kv * c->v_strides[1] + s * c->v_strides[2];
        for (int64_t i = 0; i < c->value_width; i++) out[i] += weight * v[i];
      }
      for (int64_t i = 0; i < c->value_width; i++) out[i] /= total;
    }
  });
  return MM_OK;
}

}  // namespace
