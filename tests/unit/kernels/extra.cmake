# convert_avx512.cc once more, against an emulation of its intrinsics: a machine without AVX-512 proves it too.
find_path(MIMO_SIMDE_INCLUDE_DIR simde/x86/avx512.h)
if(MIMO_SIMDE_INCLUDE_DIR AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_library(mimo_avx512_emulated OBJECT ${PROJECT_SOURCE_DIR}/kernels/cpu/convert_avx512.cc)
  target_link_libraries(mimo_avx512_emulated PRIVATE mimo_flags)
  target_include_directories(mimo_avx512_emulated SYSTEM PRIVATE ${MIMO_SIMDE_INCLUDE_DIR})
  # Its 64-byte vectors are passed between functions of this file alone: no ABI is at stake.
  target_compile_options(mimo_avx512_emulated PRIVATE -mavx2 -mf16c -Wno-psabi)
  target_compile_definitions(mimo_avx512_emulated PRIVATE
    "MIMO_AVX512_INTRINSICS=\"tests/unit/kernels/avx512_emulation.h\"" MIMO_AVX512_ENTRY=Avx512EmulatedKernels)
  target_sources(test_kernels PRIVATE $<TARGET_OBJECTS:mimo_avx512_emulated>)
  target_compile_definitions(test_kernels PRIVATE MIMO_TEST_AVX512_EMULATED)
else()
  message(STATUS "SIMDe not found: the AVX-512 kernels are tested only where the CPU has them")
endif()
