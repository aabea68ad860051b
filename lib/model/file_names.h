// The names of files in a checkpoint and in what is written beside it, and of the key that both mark their layout with:
// one place for all who read, write, check or publish them (docs/formats.md).
#pragma once

namespace mimo {

// ---- of Hugging Face
inline constexpr char kConfigName[] = "config.json";
inline constexpr char kIndexName[] = "model.safetensors.index.json";
inline constexpr char kQuantConfigName[] = "hf_quant_config.json";

inline constexpr char kAudioTokenizerDirectory[] = "audio_tokenizer/";  // goes with the audio tower

// ---- of mimo-convert
inline constexpr char kManifestName[] = "mimo-manifest.json";  // without it an output is incomplete
inline constexpr char kPartialDirectory[] = ".mimo-partial";
// What else it keeps in OUT while it runs begins so; no file of an output does.
inline constexpr char kOwnPrefix[] = ".mimo-";
inline constexpr char kLeaseName[] = ".mimo-partial/lease.json";       // who writes into an output
inline constexpr char kPartLeasesDirectory[] = ".mimo-partial/parts";  // or which parts of a run do
inline constexpr char kStartLeaseName[] = ".mimo-partial/start.json";  // which of them begins it
inline constexpr char kOriginDirectory[] = "mimo-source/";             // what the source said, for the way back
inline constexpr char kOriginConfigName[] = "mimo-source/config.json";
inline constexpr char kOriginIndexName[] = "mimo-source/model.safetensors.index.json";
// In config.json (schemas/layout_marker.schema.json) and in the headers of tensor files.
inline constexpr char kLayoutKey[] = "mimo_layout";

// ---- of Megatron: at the root of checkpoints, and in the directory of one
inline constexpr char kTrackerName[] = "latest_checkpointed_iteration.txt";
inline constexpr char kLatestTrainStateName[] = "latest_train_state.pt";
inline constexpr char kTrainStateName[] = "train_state.pt";
inline constexpr char kDcpMetadataName[] = ".metadata";
inline constexpr char kMegatronMetadataName[] = "metadata.json";
inline constexpr char kCommonStateName[] = "common.pt";
inline constexpr char kRunConfigName[] = "run_config.yaml";

}  // namespace mimo
