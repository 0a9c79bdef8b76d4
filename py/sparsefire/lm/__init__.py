"""Language models: loading, sessions, generation, chat, embeddings."""
