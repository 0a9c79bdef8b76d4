// peer_logits FOLDER MODEL...: writes the logits of a fixed sequence of tokens, in one batch, to
// FOLDER/<name of the model>.logits: two 32-bit integers, the number of tokens and the size of the
// vocabulary, then the logits in F32; of an encoder, their number, its width, and the vector of each
// token. Token i is (37 i + 11) mod vocabulary. Keys and values are in
// F32, without flash attention, so that llama.cpp rounds nowhere where sparsefire does not.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "llama.h"

namespace {

constexpr int32_t token_count = 40;

struct Closer {
  void operator()(llama_model *model) const { llama_model_free(model); }
  void operator()(llama_context *context) const { llama_free(context); }
  void operator()(FILE *file) const { fclose(file); }
};

template <typename T>
using Owned = std::unique_ptr<T, Closer>;

// Encoders are the models whose file says that the vectors of tokens are pooled to their mean.
bool is_encoder(const llama_model *model) {
  char value[64];
  if (llama_model_meta_val_str(model, "general.architecture", value, sizeof(value)) < 0) {
    return false;
  }
  const std::string key = std::string(value) + ".pooling_type";
  return llama_model_meta_val_str(model, key.c_str(), value, sizeof(value)) >= 0 && std::string(value) == "1";
}

// What went wrong, or nothing.
const char *write_logits(const char *path, const std::string &output) {
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  const Owned<llama_model> model(llama_model_load_from_file(path, model_params));
  if (!model) {
    return "the model cannot be loaded";
  }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 64;
  params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  const bool encoder = is_encoder(model.get());
  params.embeddings = encoder;
  if (encoder) {
    params.pooling_type = LLAMA_POOLING_TYPE_NONE;
  }
  const Owned<llama_context> context(llama_init_from_model(model.get(), params));
  if (!context) {
    return "no context can be made";
  }
  const int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
  llama_batch batch = llama_batch_init(token_count, 0, 1);
  batch.n_tokens = token_count;
  for (int32_t i = 0; i < token_count; i++) {
    batch.token[i] = (i * 37 + 11) % vocabulary;
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  const bool t5 = llama_model_has_encoder(model.get());
  const int32_t status = t5 ? llama_encode(context.get(), batch) : llama_decode(context.get(), batch);
  llama_batch_free(batch);
  if (status != 0) {
    return "the tokens cannot be evaluated";
  }
  const Owned<FILE> file(fopen(output.c_str(), "wb"));
  if (!file) {
    return "the logits cannot be written";
  }
  const int32_t width = encoder ? llama_model_n_embd(model.get()) : vocabulary;
  const int32_t header[2] = {token_count, width};
  bool written = fwrite(header, sizeof(header), 1, file.get()) == 1;
  for (int32_t i = 0; i < token_count; i++) {
    const float *logits =
        encoder ? llama_get_embeddings_ith(context.get(), i) : llama_get_logits_ith(context.get(), i);
    if (!logits) {
      return "there are no logits";
    }
    const size_t count = static_cast<size_t>(width);
    written = fwrite(logits, sizeof(float), count, file.get()) == count && written;
  }
  return written ? nullptr : "the logits cannot be written";
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: peer_logits FOLDER MODEL...\n");
    return 2;
  }
  llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
  llama_backend_init();
  for (int i = 2; i < argc; i++) {
    const std::string path = argv[i];
    const std::string name = path.substr(path.find_last_of("/\\") + 1);
    const char *problem = write_logits(argv[i], std::string(argv[1]) + "/" + name + ".logits");
    if (problem) {
      fprintf(stderr, "%s: %s\n", name.c_str(), problem);
    }
  }
  llama_backend_free();
  return 0;
}
