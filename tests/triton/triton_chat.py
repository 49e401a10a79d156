"""A raw Triton client for tests: one gRPC stream per request, events as they come."""

import json
import queue
import time
import urllib.error
import urllib.request

import numpy as np
import tritonclient.grpc as triton

TIMEOUT_S = 60.0


class TritonStream:
    """Responses of one streamed request. Empty ones (nothing to say yet) are skipped."""

    def __init__(self, url, model, inputs, output, request_id=""):
        self._output = output
        self._results = queue.Queue()
        self._client = triton.InferenceServerClient(url)
        self._client.start_stream(lambda result, error: self._results.put((result, error)))
        tensors = []
        for name, datatype, data in inputs:
            tensor = triton.InferInput(name, list(data.shape), datatype)
            tensor.set_data_from_numpy(data)
            tensors.append(tensor)
        self._client.async_stream_infer(model, tensors, request_id=request_id)

    def next(self, timeout_s=TIMEOUT_S):
        """The next response that has an output, decoded from JSON."""
        while True:
            result, error = self._results.get(timeout=timeout_s)
            if error is not None:
                raise RuntimeError(error.message())
            data = result.as_numpy(self._output)
            if data is not None and data.size:
                return json.loads(data.tobytes() if data.dtype == np.uint8 else data.flat[0])

    def rest(self, timeout_s=TIMEOUT_S):
        """All further responses up to the one that ends the stream by its content."""
        found = []
        while not found or not is_last(found[-1]):
            found.append(self.next(timeout_s))
        return found

    def cancel(self):
        self._client.stop_stream(cancel_requests=True)

    def close(self):
        """End the stream; returns the number of responses that nobody took."""
        self._client.stop_stream()
        self._client.close()
        return self._results.qsize()


class TritonChat:
    """`ernie_chat` and `ernie_engine` of one server."""

    def __init__(self, server):
        self.server = server
        self.grpc_url = server.grpc_url

    def stream(self, body, media=(), request_id=""):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        inputs = [("REQUEST", "BYTES", np.array([data], np.object_))]
        if media:
            inputs.append(("MEDIA", "BYTES", np.array([*media, b""], np.object_)[:-1]))
        return TritonStream(self.grpc_url, "ernie_chat", inputs, "EVENT", request_id)

    def events(self, body, media=(), request_id=""):
        stream = self.stream(body, media, request_id)
        try:
            return stream.rest()
        finally:
            stream.close()

    def engine_stream(self, request, prompt_ids=None, positions=None, request_id=""):
        data = request if isinstance(request, bytes) else json.dumps(request).encode()
        inputs = [("ENGINE_REQUEST", "UINT8", np.frombuffer(data, np.uint8))]
        if prompt_ids is not None:
            inputs.append(("PROMPT_IDS", "INT32", np.asarray(prompt_ids, np.int32)))
        if positions is not None:
            inputs.append(("POSITIONS", "INT32", np.asarray(positions, np.int32)))
        return TritonStream(self.grpc_url, "ernie_engine", inputs, "ENGINE_OUTPUT", request_id)

    def ask_engine(self, request, *args, **kwargs):
        stream = self.engine_stream(request, *args, **kwargs)
        try:
            return stream.rest()[-1]
        finally:
            stream.close()

    def stats(self):
        return self.ask_engine({"op": "stats"})["stats"]

    def until_stats(self, condition, timeout_s=TIMEOUT_S):
        """Wait until the engine's stats fulfil `condition`; they are at most half a second old."""
        deadline = time.monotonic() + timeout_s
        while not condition(stats := self.stats()):
            assert time.monotonic() < deadline, f"did not happen in time: {stats}"
            time.sleep(0.05)
        return stats

    def post(self, path, body):
        """(status, text) of an HTTP request to Triton."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server.http_url}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def generate(self, body, **inputs):
        """/generate: the one event."""
        status, text = self.post(
            "/v2/models/ernie_chat/generate", {"REQUEST": json.dumps(body), **inputs}
        )
        assert status == 200, text
        return json.loads(json.loads(text)["EVENT"])


def is_last(item):
    return bool(item.get("finish_reason") or item.get("error"))


def text_of(events):
    return "".join(
        event.get("delta", {}).get("reasoning", "") + event.get("delta", {}).get("content", "")
        for event in events
    )


def token_ids_of(events):
    return [token_id for event in events for token_id in event.get("token_ids", [])]
