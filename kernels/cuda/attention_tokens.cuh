/* Which tokens the rows of a tile of queries or keys are: consecutive ones, or those of a list.
 * at() is a token where real(), and else only to be computed with. */
#ifndef VT_CUDA_ATTENTION_TOKENS_CUH
#define VT_CUDA_ATTENTION_TOKENS_CUH

#include <stdint.h>

struct token_range {
    int first, tokens;

    __device__ __forceinline__ int at(int row) const
    {
        return first + row;
    }
    __device__ __forceinline__ bool real(int row) const
    {
        return first + row < tokens;
    }
};

/* -1 in the list: none. */
struct token_list {
    const int32_t *token;
    int count;

    __device__ __forceinline__ int at(int row) const
    {
        return row < count ? max(token[row], 0) : 0;
    }
    __device__ __forceinline__ bool real(int row) const
    {
        return row < count && token[row] >= 0;
    }
};

#endif
