// Which vector instructions these kernels were compiled to, whatever the processor has: options of $CXX decide too.

extern "C" const char* membench_instruction_sets() {
    return ""
#ifdef __AVX__
           " avx"
#endif
#ifdef __AVX2__
           " avx2"
#endif
#ifdef __FMA__
           " fma"
#endif
#ifdef __F16C__
           " f16c"
#endif
#ifdef __AVX512F__
           " avx512f"
#endif
#ifdef __AVX512BW__
           " avx512bw"
#endif
#ifdef __AVX512VL__
           " avx512vl"
#endif
#ifdef __AVX512BF16__
           " avx512_bf16"
#endif
#ifdef __ARM_NEON
           " asimd"
#endif
#ifdef __ARM_FEATURE_SVE
           " sve"
#endif
#ifdef __ARM_FEATURE_SVE2
           " sve2"
#endif
        ;
}
