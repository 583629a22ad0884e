"""The real renderer process, started for each template."""

import asyncio
import contextlib
import os
import signal

import pytest

from caravan_engine.prompts.errors import ChatTemplateFailedError, RenderQueueFullError
from caravan_engine.prompts.masking import Message
from caravan_engine.prompts.renderer import ChatRenderer, RendererLimits, TemplateSource

HELLO = [Message("user", "hello")]
LIMITS = RendererLimits(memory_bytes=128 * 2**20, time_s=1.0, output_chars=100_000)


@pytest.fixture
async def renderer_for():
    async with contextlib.AsyncExitStack() as stack:

        def start(template, limits=LIMITS, **variables):
            renderer = ChatRenderer(TemplateSource(template, variables), limits)
            renderer.start()
            stack.push_async_callback(renderer.stop)
            return renderer

        yield start


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ bos_token }}{{ messages[0].content | trim }}", "<s>hello"),
        ("{% for m in messages %}{{ m['role'] }}{% break %}x{% endfor %}", "user"),
        ("{% if tools is not none %}tools{% endif %}{{ add_generation_prompt }}", "True"),
        ("{{ {'a': '<ä>'} | tojson }}", '{"a": "<ä>"}'),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% generation %}{{ messages | length }}{% endgeneration %}", "1"),
        (
            "{%- for m in messages %}\n  {% if 1 %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "hello\n",
        ),
    ],
)
async def test_templates_find_what_their_authors_expect(renderer_for, template, prompt):
    assert await renderer_for(template, bos_token="<s>").render(HELLO) == [prompt]


async def test_several_conversations_are_rendered_in_one_go(renderer_for):
    renderer = renderer_for("{{ messages[0].content }}")

    assert await renderer.render(HELLO, [Message("user", "\U0001f600")]) == ["hello", "\U0001f600"]


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "computes": "{% set n = 10 %}{{ n ** (n ** 9) }}",
    "eats memory": "{{ 'x' * 10 ** 10 }}",
    "eats memory slowly": (
        "{% set ns = namespace(a='xxxxxxxx') %}"
        "{% for i in range(99) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}"
    ),
    "writes too much": "{% for i in range(99999) %}xx{% endfor %}",
    "reaches for attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches through format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "reaches for modules": "{{ raise_exception.__globals__['os'].system('true') }}",
    "recurses": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "includes files": "{% include '/etc/passwd' %}",
    "ranges": "{{ range(10 ** 9) | list }}",
    "divides by zero": "{{ 1 / 0 }}",
    "half a surrogate": "{{ '\\ud800' }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_template_fails_and_the_worker_goes_on(renderer_for, template):
    renderer = renderer_for("{% if messages[0].content == 'evil' %}" + template + "{% endif %}fine")

    with pytest.raises(ChatTemplateFailedError):
        await renderer.render([Message("user", "evil")])
    assert await renderer.render(HELLO) == ["fine"]


async def test_a_broken_template_says_so(renderer_for):
    with pytest.raises(ChatTemplateFailedError, match="not a valid template"):
        await renderer_for("{% if %}").render(HELLO)


async def test_a_template_that_hangs_while_it_is_compiled_is_stopped(renderer_for):
    with pytest.raises(ChatTemplateFailedError):
        await renderer_for("{{ 10 ** (10 ** 9) }}").render(HELLO)


async def test_the_templates_own_words_of_refusal_are_passed_on(renderer_for):
    renderer = renderer_for("{{ raise_exception('roles must alternate') }}")

    with pytest.raises(ChatTemplateFailedError, match="roles must alternate"):
        await renderer.render(HELLO)


async def test_words_of_refusal_that_may_hold_the_prompt_are_not(renderer_for):
    renderer = renderer_for("{{ raise_exception('bad: ' + messages[0].content) }}")

    with pytest.raises(ChatTemplateFailedError) as refused:
        await renderer.render([Message("user", "canary")])
    assert "canary" not in refused.value.message


async def test_a_killed_renderer_is_started_again(renderer_for):
    renderer = renderer_for("ok")
    await renderer.render(HELLO)
    os.kill(renderer.process_id, signal.SIGKILL)
    with contextlib.suppress(ChatTemplateFailedError):
        await renderer.render(HELLO)  # may have been written before the death was known

    assert await renderer.render(HELLO) == ["ok"]


async def test_waiting_chats_are_bounded(renderer_for):
    slow = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    limits = RendererLimits(memory_bytes=128 * 2**20, time_s=0.5, queue_size=1)
    renderer = renderer_for(slow, limits)
    tasks = [asyncio.create_task(renderer.render(HELLO)) for _ in range(4)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {
        ChatTemplateFailedError,
        RenderQueueFullError,
    }


async def test_a_caller_that_leaves_disturbs_nobody(renderer_for):
    renderer = renderer_for("{{ messages[0].content }}")
    tasks = [
        asyncio.create_task(renderer.render([Message("user", str(number))])) for number in range(20)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert outcomes[1::2] == [[str(number)] for number in range(1, 20, 2)]


async def test_the_renderer_ends_with_its_owner(renderer_for):
    renderer = renderer_for("ok")
    await renderer.render(HELLO)
    pid = renderer.process_id
    await renderer.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
