"""sandbox: what a template cannot do, and that it costs nothing to have tried."""

import re
import resource
import sys
import time
import traceback

import pytest

from agent.config import model
from agent.errors import ConfigError, RenderError
from agent.files.template import check_template, compiled
from tests.unit.files.builders import ROLE, ROLES, credential, jinja, render

# -- what it cannot do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{{ ''.__class__ }}", "line 1: '__class__' is out of bounds"),
        ("{{ ''.__class__.__mro__ }}", "line 1: '__class__' is out of bounds"),
        ("{{ ''['__class__']['__mro__'] }}", "'__class__' is out of bounds"),
        ("{% set c = 'ss__' %}{{ ''['__cla' ~ c] }}", "(a computed name) is out of bounds"),
        ("{{ secret.__self__ }}", "'__self__' is out of bounds"),
        ("{{ secret.__globals__ }}", "'__globals__' is out of bounds"),
        ("{{ range.__func__ }}", "'__func__' is out of bounds"),
        ("{{ namespace.__init__.__globals__ }}", "'__init__' is out of bounds"),
        ("{{ $db._snapshot }}", "'_snapshot' is out of bounds"),
        ("{{ $db.as_mapping() }}", "'as_mapping' cannot be called"),
        ("{% set _ = $db.data.update({'a': 'b'}) %}", "'update' is out of bounds"),
        ("{% set _ = $db.data.pop('password') %}", "'pop' is out of bounds"),
        ("{{ '{0.__class__}'.format(1) }}", "'format' cannot be called"),
        ("{{ '%s' % 1 }}", "the operator % does not work on these values"),
        ("{{ 'x'.encode() }}", "'encode' cannot be called"),
        ("{{ self._TemplateReference__context }}", "is out of bounds"),
        ("{{ self.__init__.__globals__ }}", "is out of bounds"),
        ("{{ dict.fromkeys('ab') }}", "'fromkeys' cannot be called"),
        ("{{ dict.mro() }}", "'mro' is out of bounds"),
        ("{% macro m() %}{% endmacro %}{{ m._func }}", "'_func' is out of bounds"),
        ("{% for i in [1] %}{{ loop._iterator }}{% endfor %}", "'_iterator' is out of bounds"),
        ("x\n{{ $db.data.nope }}", "line 2: 'nope' is undefined"),
        ("{{ none }}", "a value of type NoneType is not a text"),
        ("{{ $db.data }}", "a value of type dict is not a text"),
        ("{{ $db }}", "a value of type Credential is not a text"),
        ("{{ $db.data|shell }}", "|shell: a value of type dict is not a text"),
        ("{{ $db.data.nope|json }}", "'nope' is undefined"),
        ("{{ $db.data.nope|url }}", "'nope' is undefined"),
        ("{{ $db.data.nope ~ 'x' }}", "'nope' is undefined"),
        ("{{ 1 + $db.data.nope }}", "'nope' is undefined"),
        ("{% for x in $db.data.nope %}{% endfor %}", "'nope' is undefined"),
        ("{% set a = 'a' %}{{ secret(a ~ 'b') }}", "role (a computed name) is not among the template's roles"),
        ("{{ secret([]) }}", "role (a computed name) is not among the template's roles"),
        ("{{ [[1]]|join }}", "a value of type list is not a text"),
        ("{{ [1]|upper }}", "|upper: a value of type list is not a text"),
        ("{{ range|json }}", "cannot be written as JSON"),
        ("{{ 1 / 0 }}", "line 1: ZeroDivisionError in an expression"),
    ],
)
def test_what_a_template_cannot_do(contents: str, message: str) -> None:
    with pytest.raises(RenderError, match=re.escape(message)):
        render(contents)


NESTED = (
    "{% set n = namespace(l=['a'], t=('a',)) %}{% set m = namespace(l=['a']) %}{% for i in range(60) %}"
    "{% set n.l = [n.l, n.l] %}{% set m.l = [m.l, m.l] %}{% set n.t = (n.t, n.t) %}{% endfor %}"
)


LONG = "{% set s = '" + "9" * 50_000 + "' %}"


@pytest.mark.parametrize(
    "contents",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 2**9999999 }}",
        "{{ 9999999999 * 9999999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ 'a'.expandtabs(1000000000) }}",
        "{{ 'a\na'|indent(1000000000) }}",
        "{{ range(1000000000)|list }}",
        "{{ range(1000000000000000000000000000000) }}",
        "{{ range(10000)|join('x' ~ range(10000)|join(range(10000)|join)) }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% set r = range(9999)|list %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{{ range(9999)|join }}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['ab']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('a', ns.s) %}{% endfor %}",
        '{% set ns = namespace(s="\'") %}{% for i in range(60) %}{% set ns.s = ns.s|shell %}{% endfor %}',
        "{% set ns = namespace(s='\"') %}{% for i in range(60) %}{% set ns.s = ns.s|json %}{% endfor %}",
        "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
        "{% set s = range(9999)|join %}{% set ns = namespace(l=[]) %}"
        "{% for i in range(9000) %}{% set ns.l = [s[i:], s|upper, ns.l] %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
        "{% for i in range(9000) %}" + "x" * 200 + "{% endfor %}",
        # little to write, much to look at: each list holds the one before twice
        *(NESTED + look for look in ("{{ n.l|json }}", "{{ n.l|join }}", "{{ n.l|string }}", "{{ n.l|upper }}")),
        *(
            NESTED + look
            for look in ("{{ n.l|sort }}", "{{ n.l == m.l }}", "{{ m.l in [n.l] }}", "{{ n.l is eq(m.l) }}")
        ),
        *(
            NESTED + look
            for look in ("{{ {n.t: 1}|json }}", "{{ {}[n.t] }}", "{{ {}.get(n.t) }}", "{{ dict([(n.t, 1)]) }}")
        ),
        NESTED + "{% for i in [1, 2] %}{{ loop.changed([n.l, m.l][i - 1]) }}{% endfor %}",
        # few turns with much in them
        "{% for i in range(900) %}" + "{% if i %}{% endif %}" * 500 + "{% endfor %}",
        "{% macro m(i) %}"
        + "{% if i %}{% endif %}" * 500
        + "{% endmacro %}{% for i in range(900) %}{{ m(i) }}{% endfor %}",
        LONG + "{% for i in range(900) %}" + "{% if 'b' in s %}{% endif %}" * 2 + "{% endfor %}",
        LONG + "{% for i in range(900) %}{{ s.isdigit() }}{{ s.isdigit() }}{% endfor %}",
        # copies of a long text, each in a short list
        LONG
        + "{% set n = namespace(l=[]) %}{% for i in range(900) %}{% set n.l = [s.partition('9'), n.l] %}{% endfor %}",
        # one long division holds everything up for minutes
        LONG + "{% set n = namespace(s=s) %}{% for i in range(4) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
        "{{ n.s|int(base=16) % n.s[400000:]|int(base=16) }}",
        f"{{% for i in range(900) %}}{{{{ 0x{'f' * 50_000} % 0x{'e' * 25_000} }}}}{{% endfor %}}",
    ],
)
def test_a_template_bomb_stops_within_a_second_and_bounded_memory(contents: str) -> None:
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises((RenderError, ConfigError)):
        render(contents)

    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert time.monotonic() - began < 1.0
    assert grown < 100 * 1024 * (1024 if sys.platform == "darwin" else 1)


@pytest.mark.parametrize(
    "expression",
    ["-" * 300 + "w", "not " * 200 + "w", "w" + "|string" * 300, "w" + "[0]" * 300, "w" + ".x" * 300, "w" + "+1" * 300],
)
def test_a_deep_expression_is_compiled_in_a_moment(expression: str) -> None:
    """Found by fuzzing: Jinja's optimizer takes cubic time, 300 minus signs before a name took seconds."""
    began = time.monotonic()

    check_template(jinja("{% set w = 1 %}{{ " + expression + " }}"), ROLES)

    assert time.monotonic() - began < 1.0


def test_what_a_template_may_well_do_is_within_its_budget() -> None:
    """A hundred lines about each of a hundred things, sorted and compared, is no bomb."""
    body = "{% if i in odd and i != 7 %}{{ i|string|dotenv }}={{ $db.data.password|json }}\n{% endif %}" * 10
    contents = f"{{% set odd = range(1, 100, 2)|sort %}}{{% for i in range(100) %}}{body}{{% endfor %}}"

    assert len(render(contents).data.splitlines()) == 490


def test_output_up_to_the_limit_is_fine_and_one_byte_more_is_not() -> None:
    assert len(render("é" * 50, max_size=100).data) == 100
    with pytest.raises(RenderError, match="more than 100 bytes"):
        render("é" * 50 + "x", max_size=100)


def test_a_ready_made_format_is_bounded_too() -> None:
    run = compiled(
        model.Template(destination="/x", format="json", roles=(ROLE,)), ROLES, model.TemplateConfig(max_size=10)
    )

    with pytest.raises(RenderError, match="more than 10 bytes"):
        run({ROLE: credential()})


def test_each_rendering_has_a_budget_of_its_own() -> None:
    run = compiled(jinja("{% for i in range(9000) %}{% endfor %}"), ROLES, model.TemplateConfig())

    assert [run({ROLE: credential()}).data for _ in range(3)] == [b"", b"", b""]


@pytest.mark.parametrize(
    "expression",
    [
        "{0}|int + none",
        "{0}.nope",
        "{{}}[{0}]",
        "{{}}['_' ~ {0}]",
        "secret({0})",
        "secret({0} ~ 'x')",
        "{0}|json|list",
        "{0} / 2",
        "{0}.split({0}).x",
        "{0}.split('')",
        "[{0}]|pgpass",
        "('\n' ~ {0})|pgpass",
        "{{{0}: 1}}|first|dictsort",
        "{0}()",
        "{{{0}: range}}|json",
        "range({0})",
    ],
)
def test_no_message_and_no_traceback_holds_a_secret(expression: str) -> None:
    with pytest.raises(RenderError) as caught:
        render("{{ " + expression.format("$db.data.password") + " }}")

    assert "geheim" not in "".join(traceback.format_exception(caught.value))
