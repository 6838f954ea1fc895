"""The chat service's own work: it has the relay answer in OpenAI's dialect."""

from __future__ import annotations

from common.reply import Collected
from services.chat.core import Chat
from tests.common.builders import a_call
from tests.common.dialects.conversation import ASK, COUNTED, ChatTrial, completion
from tests.common.upstream.fake_client import FakeResponse


async def test_a_chat_is_completed_and_counted_as_one() -> None:
    trial = ChatTrial(FakeResponse([completion()]))
    reply = Collected()
    last = await Chat(trial.relay).complete(ASK, call=a_call(), reply=reply)
    assert reply.body(last) == completion()
    assert (trial.record.type, trial.counts) == ("chat", COUNTED)
