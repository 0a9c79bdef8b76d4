// What a program does with OpenAI's own client, in node and in a page; the answers as JSON.
// In node: node openai_client.mjs PACKAGE BASE_URL, where PACKAGE is the client's directory.

const MESSAGES = [
  { role: "system", content: "ab" },
  { role: "user", content: [{ type: "text", text: "cd" }] },
];

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    const { status = null, param = null, code = null, message } = error;
    return { name: error.constructor.name, status, param, code, message };
  }
}

export async function use(OpenAI, baseURL) {
  const options = { baseURL, apiKey: "key", maxRetries: 0, dangerouslyAllowBrowser: true };
  const client = new OpenAI(options);
  const chat = { model: "tiny", messages: MESSAGES, temperature: 0, max_tokens: 10 };
  const found = { models: [] };
  for await (const model of client.models.list()) found.models.push(model.id);
  found.model = await client.models.retrieve("tiny");

  const whole = await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 2 });
  found.whole = whole.choices[0].message.content;
  found.logprobs = whole.choices[0].logprobs.content.length;
  found.usage = whole.usage;

  found.streamed = "";
  const withUsage = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...chat, ...withUsage })) {
    found.streamed += chunk.choices[0]?.delta.content ?? "";
    found.streamedUsage = chunk.usage;
  }
  const runner = client.chat.completions.stream(chat);
  found.gathered = (await runner.finalChatCompletion()).choices[0].message.content;

  const text = { model: "tiny", prompt: "ab", temperature: 0, max_tokens: 10 };
  found.completion = (await client.completions.create(text)).choices[0].text;
  const embedded = await client.embeddings.create({ model: "tiny", input: ["ab", "cd ab"] });
  found.vectors = embedded.data.map(({ embedding }) => Array.from(embedding));
  const floats = await client.embeddings.create({
    model: "tiny",
    input: ["ab", "cd ab"],
    encoding_format: "float",
  });
  found.floats = floats.data.map(({ embedding }) => embedding);

  // Leaving in the middle of a long answer.
  const long = { ...text, max_tokens: 20000, logit_bias: { 256: -100 }, stream: true };
  const stream = await client.completions.create(long);
  for await (const chunk of stream) {
    found.begun = chunk.choices.length;
    break;
  }
  stream.controller.abort();

  const stranger = new OpenAI({ ...options, apiKey: "wrong" });
  found.failures = [
    await failure(client.chat.completions.create({ ...chat, model: "gpt" })),
    await failure(client.chat.completions.create({ ...chat, temperature: -1 })),
    await failure(client.chat.completions.create({ ...chat, tools: [{ type: "function" }] })),
    await failure(client.chat.completions.create({ ...chat, temperature: -1, stream: true })),
    await failure(client.chat.completions.create({ ...chat, verbosity: "low" })),
    await failure(client.images.generate({ prompt: "ab" })),
    await failure(stranger.models.list()),
  ];
  return found;
}

export async function refused(OpenAI, baseURL) {
  const options = { baseURL, apiKey: "key", maxRetries: 0, dangerouslyAllowBrowser: true };
  return failure(new OpenAI(options).models.list());
}

if (typeof process !== "undefined" && process.argv[3]) {
  const { default: OpenAI } = await import(`${process.argv[2]}/index.mjs`);
  console.log(JSON.stringify(await use(OpenAI, process.argv[3])));
}
