/* Functions that are compiled into those that call them, with constants for some arguments, and those that are not. */
#ifndef SF_INLINE_H
#define SF_INLINE_H

#if defined(_MSC_VER) && !defined(__clang__)
#define SF_INLINE static __forceinline
#define SF_NOT_INLINE static __declspec(noinline)
#else
#if defined(__SANITIZE_ADDRESS__) || \
    defined(__SANITIZE_THREAD__) /* what checks blow up, compiled in one, takes minutes */
#define SF_INLINE static inline
#else
#define SF_INLINE static inline __attribute__((always_inline))
#endif
#define SF_NOT_INLINE static __attribute__((noinline))
#endif

#endif
