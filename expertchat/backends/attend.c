/* Attention of a few queries over a long row of keys and values in bf16, with sums in fp32: a step of decoding on a CPU.

   Rows lie apart by any stride; the tokens of a row follow each other. A token that no query of its row sees is not read. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST 48 /* queries of a key head */

static inline float widen(uint16_t bits) {
    uint32_t whole = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &whole, 4);
    return number;
}

static inline uint16_t narrow(float number) { /* to the nearest, ties to even */
    uint32_t whole;
    memcpy(&whole, &number, 4);
    return number != number ? 0x7fc0 : (uint16_t)((whole + 0x7fff + ((whole >> 16) & 1)) >> 16);
}

static inline float power_of_e(float x) { /* within 2e-7 of e^x for x <= 0 */
    x = x < -87.0f ? -87.0f : x;
    float turns = rintf(x * 1.44269504f);
    float rest = x - turns * 0.693359375f + turns * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    int32_t bits = ((int32_t)turns + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return sum * scale;
}

static inline __attribute__((always_inline)) void one_head(
    const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *mask, uint16_t *out,
    long queries, long tokens, long length, long mask_step, float scale, float *scores, const int D) {
    float wide[MOST][D], sums[MOST][D], top[MOST], total[MOST];
    for (long i = 0; i < queries; i++) {
        for (int d = 0; d < D; d++) wide[i][d] = widen(q[i * D + d]) * scale;
        for (int d = 0; d < D; d++) sums[i][d] = 0.0f;
        top[i] = -INFINITY;
    }
    for (long l = 0; l < length; l++) {
        int seen = 0;
        for (long t = 0; t < tokens; t++) seen |= widen(mask[t * mask_step + l]) > -INFINITY;
        if (!seen) {
            for (long i = 0; i < queries; i++) scores[i * length + l] = -INFINITY;
            continue;
        }
        float key[D];
        for (int d = 0; d < D; d++) key[d] = widen(k[l * D + d]);
        for (long i = 0; i < queries; i++) {
            float product = 0.0f;
            for (int d = 0; d < D; d++) product += wide[i][d] * key[d];
            product += widen(mask[(i % tokens) * mask_step + l]);
            scores[i * length + l] = product;
            top[i] = product > top[i] ? product : top[i];
        }
    }
    for (long i = 0; i < queries; i++) {
        float *row = scores + i * length, most = top[i] > -INFINITY ? top[i] : 0.0f, sum = 0.0f;
        for (long l = 0; l < length; l++) {
            float weight = row[l] > -INFINITY ? power_of_e(row[l] - most) : 0.0f;
            row[l] = weight;
            sum += weight;
        }
        total[i] = sum;
    }
    for (long l = 0; l < length; l++) {
        int seen = 0;
        for (long t = 0; t < tokens; t++) seen |= widen(mask[t * mask_step + l]) > -INFINITY;
        if (!seen) continue;
        float value[D];
        for (int d = 0; d < D; d++) value[d] = widen(v[l * D + d]);
        for (long i = 0; i < queries; i++) {
            float weight = scores[i * length + l];
            for (int d = 0; d < D; d++) sums[i][d] += weight * value[d];
        }
    }
    for (long i = 0; i < queries; i++) { /* a query that sees nothing (of an empty row) gives zeros */
        float share = total[i] > 0.0f || total[i] != total[i] ? 1.0f / total[i] : 0.0f;
        for (int d = 0; d < D; d++) out[i * D + d] = narrow(sums[i][d] * share);
    }
}

/* q and out [rows, heads, queries, dim], whole; k and v [rows, heads, length, dim] with strides; mask [rows, tokens, length] with strides;
   query i stands for token i % tokens; scores: room for rows * heads * queries * length numbers. Returns 0, or 1 for sizes it does not do. */
int attend(
    const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint16_t *mask, uint16_t *out, float *scores,
    long rows, long heads, long queries, long tokens, long length, long dim,
    long row_step, long head_step, long mask_row, long mask_step, float scale, int threads) {
    if (queries > MOST || (dim != 64 && dim != 128)) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < rows * heads; i++) {
        long row = i / heads, place = row * row_step + (i % heads) * head_step, own = i * queries * dim;
        const uint16_t *hidden = mask + row * mask_row;
        float *room = scores + i * queries * length;
        if (dim == 64)
            one_head(q + own, k + place, v + place, hidden, out + own, queries, tokens, length, mask_step, scale, room, 64);
        else
            one_head(q + own, k + place, v + place, hidden, out + own, queries, tokens, length, mask_step, scale, room, 128);
    }
    return 0;
}
