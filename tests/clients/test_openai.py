"""The `openai` package: completions, streams, typed errors, keys, many requests at once."""

import asyncio
import base64
import unittest

import openai

from server import Server
from world import BINARY, MODEL, OUT, ROOT, SAMPLE, data_uri, text, video

COLOR = "What color is the circle?"
CAPTION = "Describe this video in one sentence."


def messages(question, url=None):
    return [{"role": "user", "content": [video(url or data_uri(SAMPLE)), text(question)]}]


class OpenaiTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(BINARY, "--model", MODEL))
        cls.client = openai.OpenAI(base_url=f"{cls.server.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def create(self, question=COLOR, **options):
        options = {"messages": messages(question), **options}
        return self.client.chat.completions.create(model=MODEL, **options)

    def refused(self, kind, *parts, **options):
        """The request raises the exception `kind`, whose message has the parts."""
        with self.assertRaises(kind) as raised:
            self.create(**options)
        for part in parts:
            self.assertIn(part, str(raised.exception))
        return raised.exception

    def test_models_are_listed(self):
        models = self.client.models.list().data
        self.assertEqual([model.id for model in models], [MODEL])
        self.assertEqual(models[0].max_model_len, 1024)

    def test_a_completion_has_text_and_usage(self):
        completion = self.create()
        choice = completion.choices[0]
        self.assertEqual(
            (choice.message.role, choice.message.content, choice.finish_reason), ("assistant", "purple", "stop")
        )
        self.assertTrue(completion.id.startswith("chatcmpl-"))
        self.assertEqual((completion.object, completion.model), ("chat.completion", MODEL))
        usage = completion.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreater(usage.prompt_tokens, 256)
        self.assertEqual(usage.prompt_tokens_details.multimodal_tokens, {"video": 256})

    def test_a_stream_has_the_text_of_the_completion(self):
        whole = self.create(CAPTION)
        chunks = list(self.create(CAPTION, stream=True, stream_options={"include_usage": True}))
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        self.assertEqual(deltas[0].role, "assistant")
        pieces = [delta.content for delta in deltas if delta.content]
        self.assertEqual("".join(pieces), whole.choices[0].message.content)
        self.assertGreater(len(pieces), 2)
        self.assertEqual(
            [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["stop"]
        )
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)

    def test_a_stream_without_include_usage_has_none(self):
        self.assertTrue(all(chunk.usage is None for chunk in self.create(stream=True)))

    def test_a_stream_may_be_left(self):
        with self.create(CAPTION, stream=True) as stream:
            next(iter(stream))
        self.assertEqual(self.create().choices[0].message.content, "purple")

    def test_max_tokens_is_clamped_to_the_context(self):
        self.assertEqual(self.create(max_tokens=100_000).choices[0].message.content, "purple")
        self.assertEqual(self.create(max_completion_tokens=100_000).choices[0].message.content, "purple")

    def test_max_tokens_cuts_an_answer(self):
        completion = self.create(CAPTION, max_tokens=2)
        self.assertEqual((completion.choices[0].finish_reason, completion.usage.completion_tokens), ("length", 2))

    def test_stop_ends_an_answer_before_itself(self):
        whole = self.create(CAPTION).choices[0].message.content
        word = whole.split()[2]
        stopped = self.create(CAPTION, stop=[f" {word}"]).choices[0]
        self.assertEqual((stopped.message.content, stopped.finish_reason), (whole[: whole.index(f" {word}")], "stop"))

    def test_a_seed_repeats_a_sampled_answer(self):
        sampled = [
            self.create(CAPTION, temperature=1.5, top_p=0.95, seed=7).choices[0].message.content for _ in range(2)
        ]
        self.assertEqual(sampled[0], sampled[1])

    def test_a_further_turn_reuses_the_video(self):
        turns = [
            *messages(COLOR),
            {"role": "assistant", "content": "purple"},
            {"role": "user", "content": "How many objects are there?"},
        ]
        completion = self.create(messages=turns)
        self.assertEqual(completion.choices[0].message.content, "three")
        self.assertGreaterEqual(completion.usage.prompt_tokens_details.cached_tokens, 256)

    def test_a_request_id_is_echoed(self):
        self.assertEqual(self.create(extra_headers={"X-Request-Id": "a-request-1"})._request_id, "a-request-1")
        self.assertTrue(self.create()._request_id)

    def test_many_requests_at_once_have_the_answers_of_one(self):
        client = openai.AsyncOpenAI(base_url=f"{self.server.url}/v1", api_key="unused", max_retries=0, timeout=300)
        questions = [COLOR, CAPTION, "How many objects are there?", "What pattern does the red cross have?"]

        async def one(question):
            completion = await client.chat.completions.create(model=MODEL, messages=messages(question))
            return completion.choices[0].message.content

        async def all_at_once():
            async with client:
                return await asyncio.gather(*(one(questions[i % 4]) for i in range(64)))

        alone = [self.create(question).choices[0].message.content for question in questions]
        self.assertEqual(asyncio.run(all_at_once()), [alone[i % 4] for i in range(64)])

    # ---- errors ----

    def test_unknown_names_are_refused_by_name(self):
        self.refused(openai.BadRequestError, "`n`", n=2)
        self.refused(openai.BadRequestError, "nframes", extra_body={"media_io_kwargs": {"video": {"nframes": 4}}})
        self.refused(openai.BadRequestError, "narrator", messages=[{"role": "narrator", "content": "hello"}])
        self.refused(
            openai.BadRequestError, "video_file", messages=[{"role": "user", "content": [{"type": "video_file"}]}]
        )

    def test_a_system_message_without_a_place_in_the_template_is_refused(self):
        system = {"role": "system", "content": "Answer in one word."}
        self.refused(openai.BadRequestError, "system", messages=[system, *messages(COLOR)])

    def test_an_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            self.client.chat.completions.create(model="gpt-4o", messages=messages(COLOR))
        self.assertIn("gpt-4o", str(raised.exception))

    def test_a_prompt_over_the_context_is_refused_with_the_arithmetic(self):
        error = self.refused(openai.BadRequestError, "1024", messages=messages(COLOR * 200))
        self.assertEqual((error.type, error.body["code"]), ("BadRequestError", 400))

    def test_what_is_not_a_video_is_unprocessable(self):
        self.refused(openai.UnprocessableEntityError, messages=messages(COLOR, data_uri(ROOT / "README.md")))
        cut = base64.b64encode(SAMPLE.read_bytes()[:64]).decode()
        self.refused(openai.UnprocessableEntityError, messages=messages(COLOR, f"data:video/mp4;base64,{cut}"))
        self.assertEqual(self.create().choices[0].message.content, "purple")

    def test_files_and_addresses_are_closed_by_default(self):
        self.refused(openai.PermissionDeniedError, messages=messages(COLOR, f"file://{SAMPLE}"))
        self.refused(openai.PermissionDeniedError, messages=messages(COLOR, "http://127.0.0.1:1/clip.mp4"))

    def test_a_wrong_key_is_an_authentication_error(self):
        keys = OUT / "keys"
        keys.write_text("right\n")
        with Server(BINARY, "--model", MODEL, "--api-key-file", keys) as server:
            for key, right in (("right", True), ("wrong", False)):
                client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
                if right:
                    self.assertEqual(client.models.list().data[0].id, MODEL)
                else:
                    self.assertRaises(openai.AuthenticationError, client.models.list)

    def test_a_server_that_ended_is_a_connection_error(self):
        with Server(BINARY, "--model", MODEL) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
            client.models.list()
        self.assertRaises(openai.APIConnectionError, client.models.list)
        self.assertEqual(server.process.returncode, 0)
