/* The one gate in front of a device's operations: checks shapes, keeps errors sticky, times each
 * operation under the name that the model gives it, shows results to an observer, and, in a
 * preparing pass, lets the device prepare for the shapes instead of computing.
 *
 * Shapes and meanings: backend.h. Wrong shapes are the program's own mistake and become a sticky
 * error that names operation and layer.
 */
#ifndef VT_OPS_H
#define VT_OPS_H

#include "kernels/backend.h"

void op_patches(vt_stream *s, vt_mat cols, vt_mat images, int channels, int height, int width,
                int patch_h, int patch_w);
void op_linear(vt_stream *s, const char *name, vt_mat y, vt_mat x, const vt_linear *w,
               vt_epilogue e);
void op_tokens(vt_stream *s, vt_mat x, vt_mat patches, const float *prefix, int prefix_tokens,
               const float *pos);
void op_norm(vt_stream *s, const char *name, vt_mat y, vt_mat x, const float *gamma,
             const float *beta, double eps);
void op_moments(vt_stream *s, const char *name, float *moments, vt_mat x);
void op_qk_norm(vt_stream *s, vt_mat qkv, int heads, int head_dim, const float *q_gamma,
                const float *q_beta, const float *k_gamma, const float *k_beta, double eps);
void op_rope(vt_stream *s, vt_mat qkv, int heads, int head_dim, int tokens, int prefix,
             const vt_rope *rope);
void op_halves(vt_stream *s, const char *name, vt_mat y, vt_mat x, vt_halves how, float factor);
void op_add(vt_stream *s, const char *name, vt_mat y, vt_mat x);
void op_latent_pool(vt_stream *s, vt_mat y, vt_mat kv, const float *q, int heads, int first);
void op_attention(vt_stream *s, vt_mat out, vt_mat qkv, const vt_attn_plan *plan);
void op_pool(vt_stream *s, vt_mat y, vt_mat x, int tokens, vt_pool how, int first);
void op_take(vt_stream *s, const char *name, vt_mat y, vt_mat x, int tokens, int first);
void op_cast(vt_stream *s, vt_mat y, vt_mat x);

/* Switches timing on or off; on also forgets what was timed. */
void vt_profile(vt_stream *s, bool on);

double vt_now_ms(void); /* monotonic clock */

/* ---- stand-ins for what a device may lack (backend.h) ---- */
void vt_clock_start(vt_stream *s);
double vt_clock_stop(vt_stream *s);
bool vt_attention_serves(const vt_device *dev, vt_attn_kernel kernel, int head_dim, bool biased);
int vt_group_load(vt_device *dev, vt_attn_group *g, vt_status *st);
void vt_group_free(vt_device *dev, vt_attn_group *g); /* one that was not loaded is fine */
size_t vt_free_memory(vt_device *dev);                /* SIZE_MAX: who knows */

#endif
