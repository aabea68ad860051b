#include "lib/plan/containers.h"

#include "lib/io/safetensors/container.h"
#include "lib/io/torch/container.h"

namespace mimo {

std::span<const Container* const> Containers() {
  static const Container* const kAll[] = {
      &SafetensorsContainer(),
      &TorchItemsContainer(),
  };
  return kAll;
}

const Container* FindContainer(std::string_view word) {
  for (const Container* container : Containers())
    if (container->word() == word) return container;
  return nullptr;
}

}  // namespace mimo
