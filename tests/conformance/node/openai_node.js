// OpenAI's client for Node: `node openai_node.js BASE_URL`. Asks what `../clients` asks, and prints
// the same lines: `ok` or `FAILED`, the step, the answer.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';

const folder = new URL('../clients/', import.meta.url);
const questions = JSON.parse(readFileSync(new URL('questions.json', folder), 'utf8'));
const picture = readFileSync(new URL(questions.vision.picture, folder)).toString('base64');
const pictureUri = `data:image/jpeg;base64,${picture}`;

if (process.argv.length !== 3) {
  console.error('usage: node openai_node.js BASE_URL');
  process.exit(2);
}
const baseURL = `${process.argv[2].replace(/\/$/, '')}/v1`;
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0, timeout: 120_000 });
const [model] = (await client.models.list()).data;
const greedy = { model: model.id, temperature: 0, max_completion_tokens: 400 };
const tool = { type: 'function', function: questions.tools.tool };
const weather = [{ role: 'user', content: questions.tools.ask }];
const seen = [
  {
    role: 'user',
    content: [
      { type: 'image_url', image_url: { url: pictureUri } },
      { type: 'text', text: questions.vision.ask },
    ],
  },
];
const format = {
  type: 'json_schema',
  json_schema: { name: 'thing', schema: questions.structured.schema, strict: true },
};

function assertWords(text, words) {
  for (const word of words) {
    assert.ok(text.toLowerCase().includes(word.toLowerCase()), `${word} is not in: ${text}`);
  }
  return text;
}

function assertThing(value) {
  const { required, properties } = questions.structured.schema;
  assert.deepEqual(Object.keys(value).sort(), [...required].sort());
  for (const name of required) {
    assert.ok(properties[name].enum.includes(value[name]), `${name} is ${value[name]}`);
  }
  return value;
}

const steps = {
  async chat() {
    const reply = await client.chat.completions.create({
      messages: [{ role: 'user', content: questions.chat.ask }],
      ...greedy,
    });
    assert.equal(reply.choices[0].finish_reason, 'stop');
    return assertWords(reply.choices[0].message.content, questions.chat.expect);
  },

  async vision() {
    const reply = await client.chat.completions.create({ messages: seen, ...greedy });
    return assertWords(reply.choices[0].message.content, questions.vision.expect);
  },

  async tools() {
    const first = await client.chat.completions.create({
      messages: weather,
      tools: [tool],
      ...greedy,
    });
    const { message, finish_reason } = first.choices[0];
    assert.equal(finish_reason, 'tool_calls');
    const [call] = message.tool_calls;
    assert.deepEqual(JSON.parse(call.function.arguments), questions.tools.arguments);
    const result = { role: 'tool', tool_call_id: call.id, content: questions.tools.result };
    const second = await client.chat.completions.create({
      messages: [...weather, message, result],
      tools: [tool],
      ...greedy,
    });
    return assertWords(second.choices[0].message.content, questions.tools.expect);
  },

  async streaming() {
    const stream = await client.chat.completions.create({
      messages: [{ role: 'user', content: questions.streaming.ask }],
      stream: true,
      stream_options: { include_usage: true },
      ...greedy,
    });
    const pieces = [];
    let usage;
    for await (const chunk of stream) {
      assert.equal(usage, undefined, 'a chunk after the usage');
      usage = chunk.usage ?? undefined;
      if (usage) assert.deepEqual(chunk.choices, []);
      else pieces.push(chunk.choices[0].delta.content);
    }
    assert.ok(pieces.length > 1 && pieces.every((piece) => typeof piece === 'string'));
    assert.ok(usage.completion_tokens > 0);
    return assertWords(pieces.join(''), questions.streaming.expect);
  },

  async structured() {
    const reply = await client.chat.completions.create({
      messages: seen,
      response_format: format,
      ...greedy,
    });
    return assertThing(JSON.parse(reply.choices[0].message.content));
  },

  async stream_helper() {
    // Puts calls together by `index`, and refuses chunks that do not fit.
    const stream = client.chat.completions.stream({
      messages: weather,
      tools: [{ ...tool, function: { ...tool.function, strict: true } }],
      ...greedy,
    });
    const done = [];
    stream.on('tool_calls.function.arguments.done', (call) => done.push(call));
    const [choice] = (await stream.finalChatCompletion()).choices;
    assert.equal(choice.finish_reason, 'tool_calls');
    assert.deepEqual(
      done.map(({ index, name }) => [index, name]),
      [[0, tool.function.name]],
    );
    assert.ok(choice.message.tool_calls[0].id);
    return done[0].arguments;
  },

  async parsed() {
    const stream = client.chat.completions.stream({
      messages: seen,
      response_format: format,
      ...greedy,
    });
    const text = await stream.finalContent();
    return assertThing(JSON.parse(text));
  },

  async run_tools() {
    // The client calls the function itself and goes on until there is an answer.
    const called = [];
    const runner = client.chat.completions.runTools({
      messages: weather,
      tools: [
        {
          type: 'function',
          function: {
            ...tool.function,
            parse: JSON.parse,
            function: (input) => {
              called.push(input);
              return questions.tools.result;
            },
          },
        },
      ],
      stream: true,
      ...greedy,
    });
    const answer = assertWords(await runner.finalContent(), questions.tools.expect);
    assert.deepEqual(called, [questions.tools.arguments]);
    return answer;
  },

  async responses() {
    const input = [
      {
        role: 'user',
        content: [
          { type: 'input_image', image_url: pictureUri, detail: 'auto' },
          { type: 'input_text', text: questions.vision.ask },
        ],
      },
    ];
    const limits = { model: model.id, temperature: 0, max_output_tokens: 400 };
    const stream = client.responses.stream({ input, ...limits });
    let text = '';
    for await (const event of stream) {
      if (event.type === 'response.output_text.delta') text += event.delta;
    }
    const final = await stream.finalResponse();
    assert.equal(final.status, 'completed');
    assert.equal(text, final.output_text);
    return assertWords(text, questions.vision.expect);
  },

  async errors() {
    const asked = client.chat.completions.create({ messages: seen, ...greedy, temperature: -1 });
    await assert.rejects(asked, (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, String(error));
      assert.equal(error.code, 'invalid_value');
      assert.equal(error.param, 'temperature');
      assert.ok(error.requestID);
      return true;
    });
    return 'BadRequestError';
  },
};

for (const [name, step] of Object.entries(steps)) {
  try {
    console.log(`ok ${name}: ${JSON.stringify(await step())}`);
  } catch (error) {
    console.error(error);
    console.log(`FAILED ${name}: ${error}`);
    process.exitCode = 1;
  }
}
