#include "lib/model/kv_cache.h"

#include <gtest/gtest.h>

namespace mimo::kv_cache_test {
namespace {

constexpr char kFp8[] = R"({"dynamic":false,"num_bits":8,"type":"float"})";

TEST(KvCacheScheme, IsFoundWhereverItIsDeclared) {
  struct Case {
    std::string config, quant_config, scheme, place;
  };
  const std::string algorithm = R"({"quantization": {"kv_cache_quant_algo": "FP8"}})";
  for (const Case& c : {
           Case{R"({"quantization_config": {"kv_cache_scheme": {"num_bits": 8}}})", "", R"({"num_bits":8})",
                "config.json: quantization_config.kv_cache_scheme"},
           Case{R"({"quantization_config": {"kv_cache_quant_algo": "FP8"}})", "", kFp8,
                "config.json: quantization_config.kv_cache_quant_algo"},
           Case{R"({"kv_cache_scheme": {"num_bits": 4}})", algorithm, R"({"num_bits":4})",
                "config.json: kv_cache_scheme"},
           Case{R"({"quantization_config": {"kv_cache_scheme": null}})", algorithm, kFp8,
                "hf_quant_config.json: quantization.kv_cache_quant_algo"},
           Case{"{}", R"({"quantization": {"kv_cache_quant_algo": "NVFP4"}})", R"("NVFP4")",
                "hf_quant_config.json: quantization.kv_cache_quant_algo"},
           Case{R"({"quantization_config": {"kv_cache_scheme": {"num_bits": 8}}})", algorithm, R"({"num_bits":8})",
                "config.json: quantization_config.kv_cache_scheme"},
       }) {
    const KvCacheScheme found = ReadKvCacheScheme(c.config, c.quant_config);
    EXPECT_EQ(found.scheme, c.scheme) << c.config;
    EXPECT_EQ(found.place, c.place) << c.config;
  }
}

TEST(KvCacheScheme, IsNotFoundInWhatSaysNothing) {
  for (const char* config :
       {"", "{", "[]", "{}", R"({"quantization_config": []})", R"({"quantization_config": {"kv_cache_scheme": 8}})",
        R"({"quantization_config": {"kv_cache_scheme": "auto", "kv_cache_quant_algo": null}})"})
    EXPECT_FALSE(ReadKvCacheScheme(config, config).declared()) << config;
  EXPECT_TRUE(ReadKvCacheScheme(R"({"kv_cache_scheme": {"dynamic": true}})", "").dynamic);
  EXPECT_FALSE(ReadKvCacheScheme(R"({"kv_cache_scheme": {"dynamic": false}})", "").dynamic);
}

TEST(KvCacheScheme, HasAWordOfModelOptWhereThereIsOne) {
  EXPECT_EQ(ModelOptCacheAlgorithm(""), "null");
  EXPECT_EQ(ModelOptCacheAlgorithm(kFp8), "\"FP8\"");
  EXPECT_EQ(ModelOptCacheAlgorithm(R"({"num_bits": 4, "type": "float"})"), "\"NVFP4\"");
  EXPECT_EQ(ModelOptCacheAlgorithm(R"({"num_bits": 8, "type": "int"})"), "null");
  EXPECT_EQ(ModelOptCacheAlgorithm(R"("NVFP4")"), R"("NVFP4")");
}

}  // namespace
}  // namespace mimo::kv_cache_test
