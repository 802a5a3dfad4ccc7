"""The commands of ../shared/data, a table of forms like them, and properties that hold for any command."""

import contextlib
import json
import shlex
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from export_pipeline.catalog.importing.mongoexport import (
    ImportedEntry,
    ImportResult,
    Refusal,
    import_commands,
    read_commands,
)
from export_pipeline.errors import BadInputError
from export_pipeline_tests.conftest import SHARED_DATA

APP = "63ef551128bad91a3c11d3e7"
QUERY = '{"uid":{"$in":["1a","1b"]}}'
USERS = f"app_users{APP}"
LINE = f"mongoexport -d countly -c {USERS} -q '{QUERY}'"
BASE = ["--db", "countly", "--collection", USERS]
FIXTURE = SHARED_DATA / "mongoexport-commands.json"


def run(command: object, app_id: str = APP) -> ImportedEntry | Refusal:
    """What becomes of one command."""
    result = import_commands([command], app_id)
    assert len(result.entries) + len(result.refused) == 1
    return (result.entries or result.refused)[0]


def outcome(command: object) -> tuple[str | None, str, str] | str:
    """An entry's database, collection and user key, or the reason for a refusal."""
    done = run(command)
    return done.reason if isinstance(done, Refusal) else (done.database, done.collection, done.user_key)


def argv(*arguments: object) -> dict[str, object]:
    return {"cmd": "mongoexport", "args": list(arguments)}


def asking(query: str) -> dict[str, object]:
    return argv(*BASE, "-q", query)


# ---- the fixture ----

FIXTURE_CASES: list[dict[str, Any]] = json.loads(FIXTURE.read_text())["cases"] if FIXTURE.exists() else []


@pytest.mark.skipif(not FIXTURE.exists(), reason="../shared/data/mongoexport-commands.json is not beside this checkout")
def test_the_fixture_holds_cases() -> None:
    assert len(FIXTURE_CASES) >= 13


@pytest.mark.parametrize("case", FIXTURE_CASES, ids=[case["form"] for case in FIXTURE_CASES])
def test_fixture(case: dict[str, Any]) -> None:
    done = run(case["command"])
    if "refuse" in case:
        assert isinstance(done, Refusal)
        assert case["refuse"] in done.reason
    else:
        expected = case["expect"]
        assert done == ImportedEntry(0, expected["database"], expected["collection"], expected["user_key"])


# ---- forms that are understood ----

ENTRY = ("countly", "app_users{app_id}", "uid")

UNDERSTOOD: dict[str, object] = {
    # how options are written
    "long options, space": argv("--db", "countly", "--collection", USERS, "--query", QUERY),
    "long options, equals": argv("--db=countly", f"--collection={USERS}", f"--query={QUERY}"),
    "short options, space": argv("-d", "countly", "-c", USERS, "-q", QUERY),
    "short options, equals": argv("-d=countly", f"-c={USERS}", f"-q={QUERY}"),
    "short options, glued": argv("-dcountly", f"-c{USERS}", f"-q{QUERY}"),
    "options in another order": argv("-q", QUERY, "--out", "x.json", "-c", USERS, "-d", "countly"),
    "a second collection wins": argv("-c", f"feedback{APP}", *BASE, "-q", QUERY),
    "a second query wins": argv(*BASE, "-q", "{}", "--query", QUERY),
    "a broken query that is overruled": argv(*BASE, "-q", "{", "-q", QUERY),
    "short and long of one option": argv("-d", "admin", *BASE, "-q", QUERY),
    "empty elements anywhere": argv("", "--db", "countly", "", "--collection", USERS, "", "-q", QUERY, ""),
    "an empty value": argv("--username", "", "--password", "", *BASE, "-q", QUERY),
    "a number and a boolean among the arguments": argv("--port", 27017, "--ssl", True, *BASE, "-q", QUERY),
    "a boolean spelled out": argv("--ssl", "true", "--jsonArray=true", *BASE, "-q", QUERY),
    "Countly's tls flags": argv(
        "--tls", "", "--tlsAllowInvalidCertificates", "", "--tlsInsecure", "", *BASE, "-q", QUERY
    ),
    "verbosity": argv("-v", "-vvv", "-vv=3", "-v=2", "--verbose", "--verbose=4", *BASE, "-q", QUERY),
    "a password that looks like an option, attached": argv("--password=-q", "-p=--db", *BASE, "-q", QUERY),
    "a password glued on": argv("-psecret", "-uadmin", *BASE, "-q", QUERY),
    "output and tuning options": argv(
        *BASE,
        "--type=csv",
        "-f",
        "a,b",
        "--sort",
        "{ts: -1}",
        "--skip",
        "1",
        "--limit=5",
        "--pretty",
        "-k",
        "--readPreference",
        "{mode: 'nearest'}",
        "--jsonFormat=canonical",
        "--assertExists",
        "-q",
        QUERY,
    ),
    "a negative limit": argv(*BASE, "--limit", "-1", "-q", QUERY),
    # fused elements
    "query and --out": argv(*BASE, "-q", f"{QUERY} --out /var/x.json"),
    "query in quotes and --out": argv(*BASE, "-q", f"'{QUERY}' --out /var/x.json"),
    "an option and its value": argv("--db countly", f"--collection {USERS}", f"-q {QUERY}"),
    "an option, its value, and further ones": argv(f"--host db1 --db countly -c {USERS}", "--query", QUERY),
    "value and further options": argv("--db", f"countly --collection {USERS} --ssl", "-q", QUERY),
    "connection options with a space in front": argv(" --host db1 --db countly", "-c", USERS, "-q", QUERY),
    "flag and further options": argv("--ssl --db countly", "-c", USERS, "-q", QUERY),
    "--query and its value": argv(*BASE, f"--query {QUERY} --jsonArray"),
    "all options, the query without quotes": argv(f"--db countly -c {USERS} -q {QUERY} --out x"),
    "collection and a query without quotes": argv("-d", "countly", "-c", f"{USERS} --query={QUERY} --pretty"),
    "the database after the query": argv("-c", USERS, "-q", f"{QUERY} --db countly"),
    "all in cmd": {"cmd": f"mongoexport --db countly -c {USERS} -q '{QUERY}'"},
    "some in cmd": {"cmd": f"mongoexport --db countly -c {USERS}", "args": ["-q", QUERY]},
    "args as a text": {"cmd": "mongoexport", "args": f"--db countly -c {USERS} -q '{QUERY}'"},
    "a list of one text": [f"mongoexport --db countly -c {USERS} -q '{QUERY}'"],
    "quotes of its own around a name": argv("--db", '"countly"', "-c", f"'{USERS}'", "-q", QUERY),
    # argv lists and programs
    "argv list": ["mongoexport", *BASE, "-q", QUERY],
    "argv list, full path": ["/usr/local/bin/mongoexport", *BASE, "-q", QUERY],
    "argv list, Windows": ["C:\\Program Files\\MongoDB\\bin\\mongoexport.exe", *BASE, "-q", QUERY],
    "argv list, wrapped": ["sudo", "-u", "mongodb", "mongoexport", *BASE, "-q", QUERY],
    "argv object, wrapped": {"cmd": "docker", "args": ["exec", "-i", "mongo", "mongoexport", *BASE, "-q", QUERY]},
    "argv object, shell": {"cmd": "sh", "args": ["-c", f"mongoexport -d countly -c {USERS} -q '{QUERY}'"]},
    "wrapper in cmd": {"cmd": "docker exec mongo", "args": ["mongoexport", *BASE, "-q", QUERY]},
    # shell lines
    "single quotes": f"mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "double quotes with escapes": (f'mongoexport -d countly -c {USERS} -q "{{\\"uid\\":{{\\"\\$in\\":[\\"1a\\"]}}}}"'),
    "double quotes as on Windows": f'mongoexport.exe -d countly -c {USERS} -q "{{\\"uid\\":{{\\"$in\\":[\\"1a\\"]}}}}"',
    "single quotes in double quotes": f"mongoexport -d countly -c {USERS} -q \"{{'uid':{{'$in':['1a']}}}}\"",
    "quotes joined": f"mongoexport -d 'coun'tly -c app_users\"{APP}\" -q '{{\"uid\":\"'1a'\"}}'",
    "an option in quotes": f"mongoexport '--db' countly \"-c={USERS}\" '--query={QUERY}'",
    "an empty option value in quotes": f"mongoexport --ssl '' -u '' -d countly -c {USERS} -q '{QUERY}'",
    "spaces and tabs": f"  mongoexport \t -d  countly\t-c {USERS}   -q '{QUERY}'  ",
    "line continuations": f"mongoexport \\\n  -d countly \\\n  -c {USERS} \\\n  -q '{QUERY}'",
    "line continuation, Windows line ends": f"mongoexport -d countly \\\r\n -c {USERS} -q '{QUERY}'".replace("\r", ""),
    "a query over several lines": f"mongoexport -d countly -c {USERS} -q '{{\n  uid: {{\n $in: ['\"'1a'\"'] }} }}'",
    "a comment behind": f"mongoexport -d countly -c {USERS} -q '{QUERY}'  # mongoexport nightly; it's fine",
    "a redirection": f"mongoexport -d countly -c {USERS} -q '{QUERY}' > /tmp/x.json 2>&1",
    "a redirection in front": f"2>/dev/null mongoexport -d countly -c {USERS} -q '{QUERY}' >>log",
    "both outputs": f"mongoexport -d countly -c {USERS} -q '{QUERY}' &> log",
    "a pipe behind": f"mongoexport -d countly -c {USERS} -q '{QUERY}' | gzip -9 > x.gz",
    "other commands around": f"cd /tmp && mongoexport -d countly -c {USERS} -q '{QUERY}' || echo failed;",
    "in the background": f"nohup mongoexport -d countly -c {USERS} -q '{QUERY}' &",
    "a variable that selects nothing": f"mongoexport -u $USER -p \"$PASS\" -d countly -c {USERS} -q '{QUERY}'",
    "a substitution that selects nothing": f"mongoexport -d countly -c {USERS} -q '{QUERY}' -o /x/$(date +%F).json",
    "backticks that select nothing": f"mongoexport -d countly -c {USERS} -q '{QUERY}' -o /x/`date`.json",
    "assignments in front": f"PASS=x LANG=C mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "old dbstr with two spaces": f"mongoexport  --host db1 --db countly --ssl  --collection {USERS} -q '{QUERY}'",
    # wrappers
    "docker exec": f"docker exec -it -e A=b mongo mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "docker exec, flags in one": f"docker exec -itu root mongo mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "docker run": f"docker run --rm --network host mongo:6 mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "docker compose": f"docker compose -f x.yml exec -T mongo mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "docker-compose": f"docker-compose exec mongo mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "kubectl": f"kubectl -n prod exec -it mongo-0 -c mongo -- mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "sudo, nice, env": (f"sudo -u mongodb nice -n 10 env A=b /usr/bin/mongoexport -d countly -c {USERS} -q '{QUERY}'"),
    "time, timeout": f"time timeout -k 5 60 mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "flock, ionice": f"flock -n /tmp/lock ionice -c 3 mongoexport -d countly -c {USERS} -q '{QUERY}'",
    "sh -c": f'sh -c "mongoexport -d countly -c {USERS} -q \'{{uid:\\"1a\\"}}\'"',
    "bash -lc in docker": f"docker exec mongo bash -lc {shlex.quote(LINE)}",
    "bash with options": f"bash -euo pipefail -c {shlex.quote(f'{LINE} | gzip')}",
    "su": f"su - mongodb -c {shlex.quote(LINE)}",
    "ssh with one argument": f"ssh -p 22 db1 {shlex.quote(LINE)}",
    "ssh with several": f"ssh db1 mongoexport -d countly -c {USERS} -q '{QUERY}'",
    # where the database stands
    "in --uri": argv("--uri", "mongodb://u:p@h1,h2:27017/countly?replicaSet=rs0", "-c", USERS, "-q", QUERY),
    "in a positional connection string": argv("mongodb+srv://u:p@h/countly", "-c", USERS, "-q", QUERY),
    "in --uri and --db": argv("--uri=mongodb://h/countly", *BASE, "-q", QUERY),
    "in --db, the uri has none": argv("--uri=mongodb://h:27017/?tls=true", *BASE, "-q", QUERY),
    "in --db, the uri is a variable": f"mongoexport --uri \"$MONGO_URI\" -d countly -c {USERS} -q '{QUERY}'",
    "in a uri with variables": f"mongoexport --uri \"mongodb://$U:$P@h/countly\" -c {USERS} -q '{QUERY}'",
    "in a uri without quotes": f"mongoexport --uri mongodb://h/countly?w=1 -c {USERS} -q '{QUERY}'",
    "in a uri of Azure": argv("--uri=mongodb://u:p@h/countly?ssl=true&appName=@u@", "-c", USERS, "-q", QUERY),
    "in --db beside --config": argv("--config=/etc/mongo.yml", *BASE, "-q", QUERY),
    # queries
    "equality": asking('{"uid":"1a"}'),
    "$eq": asking('{"uid":{"$eq":"1a"}}'),
    "no quotes around keys": asking("{uid:{$in: ['1a', \"1b\"]}}"),
    "single quotes throughout": asking("{'uid': {'$in': ['1a', '1b']}}"),
    "commas at the end": asking("{uid: {$in: ['1a', '1b',],},}"),
    "spaces and lines": asking(' {\n\t"uid" : { "$in" : [ "1a" ] } } \n'),
    "quotes of its own around the query": asking(f"'{QUERY}'"),
    "escaped quotes of its own around the query": asking(json.dumps(QUERY)),
    "escapes in names": asking('{"\\u0075id": {"\\u0024in": ["1a"]}}'),
    "a uid that looks like a query": asking('{"uid": "{$where: 1} --db x \' \\" | $(x)"}'),
    "extended JSON, id": asking('{"uid": {"$oid": "63ef551128bad91a3c11d3e8"}}'),
    "extended JSON, numbers": asking('{"uid": {"$in": [{"$numberLong": "5"}, {"$numberInt": "6"}, 7]}}'),
    "extended JSON, uuid": asking('{"uid": {"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}}'),
    "extended JSON, binary": asking('{"uid": {"$binary": {"base64": "AAEC", "subType": "04"}}}'),
    "extended JSON, binary of version 1": asking('{"uid": {"$binary": "AAEC", "$type": "04"}}'),
    "constructors": asking("{uid: {$in: [ObjectId('63ef551128bad91a3c11d3e8'), new NumberLong(5), NumberInt(\"6\")]}}"),
    "UUID and BinData": asking("{uid: {$in: [UUID('00112233-4455-6677-8899-aabbccddeeff'), BinData(4, 'AAEC')]}}"),
    "$and of one": asking('{"$and":[{"uid":"1a"}]}'),
    "$and of the same field": asking('{"$and":[{"uid":{"$in":["1a","1b"]}},{"uid":"1a"}]}'),
    "$or of the same field": asking('{"$or":[{"uid":"1a"},{"uid":{"$in":["1b"]}}]}'),
    "$and in $or": asking('{"$or":[{"$and":[{"uid":"1a"}]}]}'),
    "the same field twice over": asking('{"uid":"1a","$and":[{"uid":"1a"}]}'),
}


@pytest.mark.parametrize("command", UNDERSTOOD.values(), ids=UNDERSTOOD.keys())
def test_is_understood(command: object) -> None:
    assert outcome(command) == ENTRY


@pytest.mark.parametrize(
    ("collection", "expected"),
    [
        (f"app_crashusers{APP}", "app_crashusers{app_id}"),
        (f"{APP}_events", "{app_id}_events"),
        (f"drill.{APP}.events-x", "drill.{app_id}.events-x"),
        (f"push_{APP}_tokens", "push_{app_id}_tokens"),
        (APP, "{app_id}"),
    ],
)
def test_the_app_id_is_taken_out_wherever_it_stands(collection: str, expected: str) -> None:
    assert outcome(argv("-c", collection, "-q", QUERY)) == (None, expected, "uid")


@pytest.mark.parametrize("key", ["uid", "_id", "uids", "user_id", "userId", "user.uid", "a.b._id", "members.user_id"])
def test_user_keys(key: str) -> None:
    assert outcome(asking(json.dumps({key: {"$in": ["1a"]}}))) == ("countly", "app_users{app_id}", key)


@pytest.mark.parametrize(
    "command",
    [argv("-c", USERS, "-q", QUERY), argv("--uri", "mongodb://h", "-c", USERS, "-q", QUERY)],
    ids=["no database", "a uri without one"],
)
def test_the_database_may_be_left_to_the_default(command: object) -> None:
    assert outcome(command) == (None, "app_users{app_id}", "uid")


# ---- forms that are refused ----

NO_SELECTOR = "no selector on a user"
NO_QUERY = "the query does not parse"
NO_OPERATOR = "operator not allowed"
NOT_MONGOEXPORT = "not mongoexport"

REFUSED: dict[str, tuple[object, str]] = {
    # no selector
    "an empty query": (asking("{}"), NO_SELECTOR),
    "no text in the query": (asking("  "), NO_SELECTOR),
    "an empty query last": (argv(*BASE, "-q", QUERY, "-q", "{}"), NO_SELECTOR),
    "an empty query fused behind": (argv(*BASE, "-q", f"{QUERY} -q {{}}"), NO_SELECTOR),
    "a query in a file": (argv(*BASE, "--queryFile", "q.json"), NO_SELECTOR),
    "a query in a file beside one": (argv(*BASE, "-q", QUERY, "--queryFile=q.json"), "--queryFile"),
    "an unknown user key": (asking('{"did":"1a"}'), "the query asks for did"),
    "a key that only ends like one": (asking('{"notuid":"1a"}'), NO_SELECTOR),
    "an empty list": (asking('{"uid":{"$in":[]}}'), NO_SELECTOR),
    "a list of nobody": (asking('{"uid":{"$in":[""]}}'), NO_SELECTOR),
    "$in without a list": (asking('{"uid":{"$in":"1a"}}'), NO_SELECTOR),
    "null": (asking('{"uid":null}'), NO_SELECTOR),
    "null in the list": (asking('{"uid":{"$in":["1a",null]}}'), NO_SELECTOR),
    "undefined": (asking("{uid: undefined}"), NO_SELECTOR),
    "true": (asking('{"uid":true}'), NO_SELECTOR),
    "a fraction": (asking('{"uid":1.5}'), NO_SELECTOR),
    "a huge number": (asking('{"uid":' + "9" * 5000 + "}"), NO_SELECTOR),
    "NaN": (asking("{uid: NaN}"), NO_SELECTOR),
    "a date": (asking('{"uid":{"$date":"2020-01-01T00:00:00Z"}}'), NO_SELECTOR),
    "a constructed date": (asking("{uid: {$in: [ISODate('2020-01-01')]}}"), NO_SELECTOR),
    "MinKey": (asking("{uid: MinKey}"), NO_SELECTOR),
    "a bad ObjectId": (asking("{uid: ObjectId('1a')}"), NO_SELECTOR),
    "an ObjectId of nothing": (asking("{uid: ObjectId()}"), NO_SELECTOR),
    "a list": (asking('{"uid":["1a"]}'), NO_SELECTOR),
    "a list in the list": (asking('{"uid":{"$in":[["1a"]]}}'), NO_SELECTOR),
    "a document": (asking('{"_id":{"uid":"1a"}}'), NO_SELECTOR),
    "an empty document": (asking('{"uid":{}}'), NO_SELECTOR),
    "the app's own id": (asking(f'{{"_id":"{APP}"}}'), NO_SELECTOR),
    "the app's own ObjectId": (asking(f"{{_id: ObjectId('{APP}')}}"), NO_SELECTOR),
    "ids made from the app id": (asking(f'{{"_id":{{"$in":["{APP}_1a"]}}}}'), NO_SELECTOR),
    # only part of the user's documents
    "a further field": (asking('{"uid":"1a","os":"iOS"}'), "also asks for os"),
    "a further field in $and": (asking('{"$and":[{"uid":"1a"},{"os":"iOS"}]}'), "also asks for os"),
    "two user keys": (asking('{"uid":"1a","_id":"1a"}'), "the query asks for _id, uid"),
    # operators
    **{
        f"{operator} on the user key": (asking(json.dumps({"uid": {operator: operand}})), NO_OPERATOR)
        for operator, operand in {
            "$ne": "1a",
            "$nin": ["1a"],
            "$not": {"$in": ["1a"]},
            "$exists": True,
            "$gt": "",
            "$lte": "z",
            "$regex": "^1",
            "$regularExpression": {"pattern": "", "options": ""},
            "$type": "string",
            "$all": ["1a"],
            "$elemMatch": {"$eq": "1a"},
            "$size": 1,
            "$mod": [2, 0],
            "$code": "1",
            "$symbolic": 1,
        }.items()
    },
    **{
        f"{operator} of the whole": (asking(json.dumps({operator: operand})), NO_OPERATOR)
        for operator, operand in {
            "$nor": [{"uid": "1a"}],
            "$where": "this.uid",
            "$expr": {"$eq": ["$uid", "1a"]},
            "$function": {"body": "", "args": []},
            "$text": {"$search": "x"},
            "$jsonSchema": {},
            "$in": ["1a"],
            "$comment": "x",
        }.items()
    },
    "negation beside a selector": (asking('{"uid":{"$in":["1a"],"$nin":["1b"]}}'), "operator not allowed: $nin"),
    "code beside a selector": (asking('{"uid":"1a","$where":"1"}'), "operator not allowed: $where"),
    "code deep inside": (asking('{"uid":{"$in":["1a",{"a":[{"$where":"1"}]}]}}'), "operator not allowed: $where"),
    "an operator written in escapes": (asking('{"uid":"1a","\\u0024where":"1"}'), "operator not allowed: $where"),
    "$or over two fields": (asking('{"$or":[{"uid":"1a"},{"os":"iOS"}]}'), NO_OPERATOR),
    "$or over two user keys": (asking('{"$or":[{"uid":"1a"},{"_id":"1a"}]}'), NO_OPERATOR),
    "$or with an empty branch": (asking('{"$or":[{"uid":"1a"},{}]}'), NO_SELECTOR),
    "$or of nothing": (asking('{"$or":[]}'), NO_SELECTOR),
    "$and of something else": (asking('{"$and":{"uid":"1a"}}'), NO_SELECTOR),
    "a regular expression": (asking("{uid: /^1/i}"), NO_OPERATOR),
    "a regular expression in the list": (asking("{uid: {$in: [/^1/]}}"), NO_OPERATOR),
    "a constructed regular expression": (asking("{uid: RegExp('^1')}"), NO_OPERATOR),
    "a function": (asking("{uid: function() { return 1 }}"), NO_OPERATOR),
    "constructed code": (asking("{uid: Code('1')}"), NO_OPERATOR),
    # queries that do not parse
    "cut off": (asking('{"uid":{"$in":["1a","1b"]}'), NO_QUERY),
    "text behind": (asking('{"uid":"1a"} or so'), NO_QUERY),
    "a second query behind": (asking('{"uid":"1a"}{"uid":"1b"}'), NO_QUERY),
    "not an object": (asking('["uid"]'), NO_QUERY),
    "a text": (asking("uid"), NO_QUERY),
    "a quoted text in a quoted text": (asking(json.dumps(json.dumps(QUERY))), NO_QUERY),
    "a key twice": (asking('{"uid":"1a","uid":{"$ne":"1b"}}'), NO_QUERY),
    "a key twice, inside": (asking('{"uid":{"$in":["1a"],"$in":["1b"]}}'), NO_QUERY),
    "a word without quotes": (asking("{uid: oneA}"), NO_QUERY),
    "an unknown function": (asking("{uid: String('1a')}"), NO_QUERY),
    "an expression": (asking("{uid: '1' + 'a'}"), NO_QUERY),
    "an arrow function": (asking("{uid: () => 1}"), NO_QUERY),
    "typographic quotes": (asking("{\u201cuid\u201d: \u201c1a\u201d}"), NO_QUERY),
    "a bad escape": (asking('{"uid":"\\q"}'), NO_QUERY),
    "empty places in a list": (asking('{"uid":{"$in":[,"1a"]}}'), NO_QUERY),
    "nested without end": (asking('{"uid":' * 100_000), NO_QUERY),
    "nested lists without end": (asking("[" * 100_000), NO_QUERY),
    "nested constructors without end": (asking("{uid: " + "ObjectId(" * 100_000), NO_QUERY),
    "shell quotes lost": (f'mongoexport -d countly -c {USERS} -q {{"uid":"1a"}}', NO_QUERY),
    # programs
    "mongoimport": ("mongoimport --db countly", NOT_MONGOEXPORT),
    "a name that only begins like it": (["mongoexporter", *BASE, "-q", QUERY], NOT_MONGOEXPORT),
    "mongoexport as an argument": (f"echo mongoexport -d countly -c {USERS} -q '{QUERY}'", NOT_MONGOEXPORT),
    "mongoexport as a file": (f"mongodump -o mongoexport -d countly -c {USERS} -q '{QUERY}'", NOT_MONGOEXPORT),
    "mongodump with the word at its end": (["mongodump -o /x/mongoexport", *BASE, "-q", QUERY], NOT_MONGOEXPORT),
    "another program in a wrapper": (f"docker exec mongoexport mongodump -d countly -q '{QUERY}'", NOT_MONGOEXPORT),
    "a program in a variable": (f"$EXPORT -d countly -c {USERS} -q '{QUERY}'", NOT_MONGOEXPORT),
    "xargs": (f"cat uids | xargs mongoexport -d countly -c {USERS} -q '{QUERY}'", NOT_MONGOEXPORT),
    "a loop": (f"for u in a b; do mongoexport -d countly -c {USERS} -q '{QUERY}'; done", NOT_MONGOEXPORT),
    "nothing": ("", NOT_MONGOEXPORT),
    "no arguments at all": ([], NOT_MONGOEXPORT),
    "options only": (["--db", "countly"], NOT_MONGOEXPORT),
    "no cmd": ({"args": ["--db", "countly"]}, NOT_MONGOEXPORT),
    "a number": (5, NOT_MONGOEXPORT),
    "null instead of a command": (None, NOT_MONGOEXPORT),
    "further fields": ({"cmd": "mongoexport", "args": [*BASE, "-q", QUERY], "shell": True}, NOT_MONGOEXPORT),
    "args is a number": ({"cmd": "mongoexport", "args": 5}, NOT_MONGOEXPORT),
    "shells in shells": ("sh -c " * 50 + "mongoexport", NOT_MONGOEXPORT),
    "wrappers in wrappers": ("sudo " * 10_000 + "mongoexport", NOT_MONGOEXPORT),
    "two in one line": (f"mongoexport {shlex.join(BASE)} -q '{QUERY}'; mongoexport -d x", "more than one mongoexport"),
    "two, one in a shell": (f"mongoexport -q '{QUERY}' | sh -c 'mongoexport -d x'", "more than one mongoexport"),
    # arguments
    "a null argument": (argv(*BASE, "--port", None, "-q", QUERY), "not a text"),
    "a nested argument": (argv(*BASE, ["-q", QUERY]), "not a text"),
    "an unknown option": (argv(*BASE, "--drop", "-q", QUERY), "unknown option --drop"),
    "an unknown option with a value": (argv(*BASE, "--filter=1a", "-q", QUERY), "unknown option --filter"),
    "an unknown short option": (argv(*BASE, "-x", "-q", QUERY), "unknown option -x"),
    "another case": (argv("--DB", "countly", "-c", USERS, "-q", QUERY), "unknown option --DB"),
    "an abbreviation": (argv("--coll", USERS, "-q", QUERY), "unknown option --coll"),
    "one dash": (argv("-db", "countly", "-c", USERS, "-q", QUERY), "-db is written with one dash"),
    "one dash and equals": (argv(*BASE, f"-query={QUERY}"), "-query is written with one dash"),
    "a typographic dash": (argv("\u2013db", "countly", "-c", USERS, "-q", QUERY), "typographic dash"),
    "a value that is missing": (argv("-q", QUERY, *BASE, "--out"), "--out has no value"),
    "an option for a value": (argv("-c", USERS, "-q", QUERY, "-p", "--db", "countly"), "--password has no value"),
    "a value for a flag": (argv(*BASE, "--pretty=yes", "-q", QUERY), "--pretty takes no value"),
    "a stray argument": (argv(*BASE, "-q", QUERY, "x.json"), "belongs to no option"),
    "a double dash": (argv(*BASE, "-q", QUERY, "--"), "belongs to no option"),
    "a shell's pipe in a list": (argv(*BASE, "-q", QUERY, "|", "gzip"), "belongs to no option"),
    "a query without quotes": (f"mongoexport -d countly -c {USERS} -q {{ uid: 5 }}", "belongs to no option"),
    "help": (argv(*BASE, "-q", QUERY, "--help"), "--help exports nothing"),
    "an odd verbosity": (argv(*BASE, "-q", QUERY, "-vq"), "--verbose"),
    "a selection hidden in a value": (argv(*BASE, "--out", "x --db other", "-q", QUERY), "--out holds another option"),
    "a shell line behind a query": (argv(*BASE, "-q", f"{QUERY} --out x; rm x"), "more than one command"),
    "NUL": (argv(*BASE, "-q", QUERY, "--out", "a\0b"), "NUL"),
    "NUL in a line": (f"mongoexport -d countly -c {USERS} -q '{QUERY}' -o 'a\0'", "NUL"),
    # the collection
    "no collection": (argv("-d", "countly", "-q", QUERY), "--collection is missing"),
    "an empty collection last": (argv(*BASE, "-c", "", "-q", QUERY), "--collection is missing"),
    "a shared collection": (argv("-c", "drill_events", "-q", QUERY), "--collection must hold the app id"),
    "another app's": (argv("-c", "app_users" + "0" * 24, "-q", QUERY), "--collection must hold the app id"),
    "the app id in capitals": (argv("-c", USERS.upper(), "-q", QUERY), "--collection must hold the app id"),
    "the app id twice": (argv("-c", f"a{APP}b{APP}", "-q", QUERY), "--collection must hold the app id"),
    "a placeholder": (argv("-c", f"{{app_id}}{APP}", "-q", QUERY), "--collection is not a name"),
    "a dollar": (argv("-c", f"a$x{APP}", "-q", QUERY), "--collection is not a name"),
    "a star": (f"mongoexport -d countly -c a*{APP} -q '{QUERY}'", "--collection is not a name"),
    "a system collection": (argv("-c", f"system.{APP}", "-q", QUERY), "--collection is not a name"),
    "a control character": (argv("-c", f"a\x07{APP}", "-q", QUERY), "--collection is not a name"),
    "half a character": (argv("-c", f"a\ud800{APP}", "-q", QUERY), "--collection is not a name"),
    "a space": (argv("-c", f"a {APP}", "-q", QUERY), "--collection is not a name"),
    # the database
    "an empty database": (argv("-c", USERS, "-q", QUERY, "--db", ""), "database is empty"),
    "an empty database last": (argv(*BASE, "-q", QUERY, "--db="), "database is empty"),
    "a slash in the database": (argv("-d", "a/b", "-c", USERS, "-q", QUERY), "name of the database"),
    "a dot in the database": (argv("-d", "a.b", "-c", USERS, "-q", QUERY), "name of the database"),
    "a space in the database": (argv("-d", "a b", "-c", USERS, "-q", QUERY), "name of the database"),
    "the app id in the database": (argv("-d", f"x{APP}", "-c", USERS, "-q", QUERY), "holds the app id"),
    "two databases": (argv("--uri=mongodb://h/other", *BASE, "-q", QUERY), "different databases"),
    "two connection strings": (argv("mongodb://a", "mongodb://b", *BASE, "-q", QUERY), "two connection strings"),
    "a uri twice": (argv("--uri=mongodb://a", "mongodb://b", *BASE, "-q", QUERY), "given twice"),
    "no connection string": (argv("--uri", "u:p@h/countly", "-c", USERS, "-q", QUERY), "--uri is not a connection"),
    "a uri as the host": (argv("--host", "mongodb://h/x", *BASE, "-q", QUERY), "belongs to --uri"),
    "a slash in a uri's password": (argv("--uri=mongodb://u:p/w@h/db", "-c", USERS, "-q", QUERY), "does not parse"),
    "a question mark in a password": (argv("--uri=mongodb://u:p?w@h/db", "-c", USERS, "-q", QUERY), "does not parse"),
    "all of them in a password": (argv("--uri=mongodb://u:p@/w?w@h/db", "-c", USERS, "-q", QUERY), "does not parse"),
    "NUL in a uri": (argv("--uri=mongodb://h/a%00b", "-c", USERS, "-q", QUERY), "name of the database"),
    "a database in a file": (argv("--config", "x.yml", "-c", USERS, "-q", QUERY), "--config"),
    # what a shell would fill in or take apart
    "a variable in the query": (f"mongoexport {shlex.join(BASE)} -q '{{uid:\"'\"$U\"'\"}}'", "--query holds a shell"),
    "a variable for the query": (f'mongoexport {shlex.join(BASE)} -q "$QUERY"', "--query holds a shell"),
    "a substitution in the query": (f'mongoexport {shlex.join(BASE)} -q "$(cat q)"', "--query holds a shell"),
    "a variable in the collection": (f"mongoexport -c $C{APP} -q '{QUERY}'", "--collection holds a shell"),
    "a braced variable": (f"mongoexport -c \"${{C}}{APP}\" -q '{QUERY}'", "--collection holds a shell"),
    "the app id in a variable": (f"mongoexport -c app_users$APP -q '{QUERY}'", "--collection holds a shell"),
    "a variable for the database": (f"mongoexport -d $DB -c {USERS} -q '{QUERY}'", "--db holds a shell"),
    "a variable for the uri": (f"mongoexport --uri $URI -c {USERS} -q '{QUERY}'", "--uri holds a shell"),
    "a variable at the end of the uri": (f"mongoexport --uri mongodb://$H -c {USERS} -q '{QUERY}'", "--uri holds a"),
    "a variable for options": (f"mongoexport $AUTH -d countly -c {USERS} -q '{QUERY}'", "shell variable where"),
    "an operator that is a variable": (f"mongoexport -c {USERS} -q {{uid:{{$in:[5]}}}}", "--query holds a shell"),
    "brace expansion": (f"mongoexport -c {USERS} -q {{uid:5,a:5}}", "braces"),
    "a subshell": (f"(mongoexport -c {USERS} -q '{QUERY}')", "subshell"),
    "a here-document": (f"mongoexport -c {USERS} -q '{QUERY}' <<EOF", "here-document"),
    "nested substitutions": (f"mongoexport -c {USERS} -q '{QUERY}' -o $(a $(b))", "nested"),
    "an open quote": (f"mongoexport -c {USERS} -q '{QUERY}", "quote is never closed"),
    "an open double quote": (f'mongoexport -c {USERS} -o "x', "quote is never closed"),
    "a backslash at the end": (f"mongoexport -c {USERS} -q '{QUERY}' \\", "backslash"),
}


@pytest.mark.parametrize(("command", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(command: object, reason: str) -> None:
    refusal = run(command)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_the_table_is_large() -> None:
    assert len(UNDERSTOOD) + len(REFUSED) > 200


def test_each_command_keeps_its_place() -> None:
    result = import_commands(["mongodump", asking('{"uid":"1a"}'), 5, ["mongoexport", *BASE, "-q", QUERY]], APP)
    assert [entry.index for entry in result.entries] == [1, 3]
    assert [refusal.index for refusal in result.refused] == [0, 2]


@pytest.mark.parametrize("app_id", ["", "  "])
def test_an_empty_app_id_is_an_error(app_id: str) -> None:
    with pytest.raises(BadInputError, match="app id is empty"):
        import_commands([], app_id)


# ---- files ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps([LINE, argv("-d", "x"), ["mongoexport", "-d"]]), [LINE, argv("-d", "x"), ["mongoexport", "-d"]]),
        (json.dumps(["mongoexport", "--ssl", True]), [["mongoexport", "--ssl", True]]),
        (json.dumps([LINE, argv("-d", "x")], indent=2), [LINE, argv("-d", "x")]),
        (f"{json.dumps(argv('-d', 'x'))}\n\n{json.dumps(LINE)}\n{json.dumps(['mongoexport', '-d', 'x'])}\n",
         [argv("-d", "x"), LINE, ["mongoexport", "-d", "x"]]),
        (json.dumps(argv("-d", "x")), [argv("-d", "x")]),
        (json.dumps(argv("-d", "x"), indent=1), [argv("-d", "x")]),
        (json.dumps(LINE), [LINE]),
        (json.dumps(["mongoexport", "-d", "x"]), [["mongoexport", "-d", "x"]]),
        (json.dumps([LINE]), [LINE]),
        (json.dumps([LINE, "-x"]), [LINE, "-x"]),
        ("[]", []),
        ("", []),
        ("\n  \n# nothing\n", []),
        (f"{LINE}\n{LINE}", [LINE, LINE]),
        (f"#!/bin/sh\n# it's all\n\n{LINE}\r\n  {LINE}", [LINE, f"  {LINE}"]),
        (f"\ufeff{LINE}\n", [LINE]),
        ("mongoexport \\\n  -d x \\\n -c y\nmongodump", ["mongoexport \\\n  -d x \\\n -c y", "mongodump"]),
        ("mongoexport -q '{\n uid: 5}' \\\n -d x\nmongodump", ["mongoexport -q '{\n uid: 5}' \\\n -d x", "mongodump"]),
        ("mongoexport -q '{\n uid: 5\n}' -d x\nmongodump", ["mongoexport -q '{\n uid: 5\n}' -d x", "mongodump"]),
        ("mongoexport -o 'x\n" + LINE, ["mongoexport -o 'x", LINE]),
        ("mongoexport -o 'x\nmongodump", ["mongoexport -o 'x", "mongodump"]),
        ("mongoexport # don't\nmongodump", ["mongoexport # don't", "mongodump"]),
        (f"{json.dumps(argv('-d', 'x'))}\n# and by hand\n{LINE}", [argv("-d", "x"), LINE]),
        (f'"/usr/bin/mongoexport" -d x\n{LINE}', ['"/usr/bin/mongoexport" -d x', LINE]),
        ('[["mongoexport", "--port", 27017]]', [["mongoexport", "--port", "27017"]]),
    ],
    ids=range(25),
)  # fmt: skip
def test_a_file_is_split_into_commands(text: str, expected: list[object]) -> None:
    assert read_commands(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n"mongoexport",\n{"cmd" "mongoexport"}\n]', "line 3:"),
        ('{"cmd": "mongoexport",\n"args": [}', "line 2:"),
        ('{"cmd": "mongoexport"}\n\n{"cmd": "mongoexport"', "line 3:"),
        (f'{LINE}\n["mongoexport"', "line 2:"),
        ("null", "no command"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_neither_is_an_error(text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as error:
        read_commands(text)
    assert error.value.__context__ is None or error.value.__suppress_context__  # that would quote the file
    assert "mongoexport" not in str(error.value)


def test_a_huge_number_in_a_file_is_just_an_argument() -> None:
    assert read_commands(f'[["mongoexport", {"9" * 5000}]]') == [["mongoexport", "9" * 5000]]


# ---- properties ----

UIDS = st.lists(st.text(min_size=1, max_size=8).filter(lambda uid: "\0" not in uid), min_size=1, max_size=3)
NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
NOISE = [  # as argv; none of it selects anything
    ["--host", "db1:27017"],
    ["-h=rs0/h1,h2"],
    ["--port", "27017"],
    ["-uadmin"],
    ["--username", "some one"],
    ["-psecret"],
    ["--password=-q"],
    ["--ssl", ""],
    ["--tlsInsecure"],
    ["--jsonArray"],
    ["-vv"],
    ["--out", "/var/x y.json"],
    ["--type=json"],
    ["--fields", "uid,ls"],
    ["--limit", "5"],
    ["--authenticationDatabase", "admin"],
    [""],
]
WRAPPERS = [[], ["sudo"], ["docker", "exec", "-i", "m"], ["nice", "-n", "5"], ["timeout", "9"], ["env", "A=b"]]


@st.composite
def queries(draw: st.DrawFn, key: str) -> str:
    uids = draw(UIDS)
    query: dict[str, object] = draw(
        st.sampled_from([{key: uids[0]}, {key: {"$in": uids}}, {key: {"$eq": uids[0]}}, {"$and": [{key: uids[0]}]}])
    )
    text = json.dumps(query, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    if draw(st.booleans()):
        for name in (key, "$in", "$eq", "$and"):
            text = text.replace(f'"{name}": ', f"{name}:" if "." not in name else f"'{name}':")
    return text


@st.composite
def option(draw: st.DrawFn, long: str, short: str, value: str) -> list[str]:
    styles = [[f"--{long}={value}"], [f"-{short}={value}"]]
    if not value.startswith("-"):
        styles += [[f"--{long}", value], [f"-{short}", value]]
    if long == "query" or f"-{short}{value}".partition("=")[0] not in ("-db", "-out"):
        styles.append([f"-{short}{value}"])
    return draw(st.sampled_from(styles))


@st.composite
def commands(draw: st.DrawFn) -> tuple[object, tuple[str | None, str, str]]:
    """A command in a random style, and the entry it must become."""
    key = draw(st.sampled_from(["uid", "_id", "uids", "user_id", "userId", "user.uid"]))
    database = draw(NAMES)
    before, after = draw(NAMES), draw(st.one_of(st.just(""), NAMES))
    assume(not f"{before}{after}".startswith("system"))
    groups = [
        draw(option("collection", "c", f"{before}{APP}{after}")),
        draw(option("query", "q", draw(queries(key)))),
        draw(option("db", "d", database)),
        *draw(st.lists(st.sampled_from(NOISE), max_size=4)),
    ]
    overruled = [
        draw(option("collection", "c", "other")),
        draw(option("query", "q", "{}")),
        draw(option("db", "d", "elsewhere")),
    ]
    arguments = [
        word
        for group in [*draw(st.permutations(overruled))[: draw(st.integers(0, 3))], *draw(st.permutations(groups))]
        for word in group
    ]
    words = [
        *draw(st.sampled_from(WRAPPERS)),
        draw(st.sampled_from(["mongoexport", "/opt/bin/mongoexport"])),
        *arguments,
    ]
    command: object = draw(
        st.sampled_from([
            words,
            {"cmd": words[0], "args": words[1:]},
            shlex.join(words),
            " \\\n ".join(shlex.quote(word) for word in words),
            f"cd /x && {shlex.join(words)} 2>&1 | gzip > x.gz  # done",
            shlex.join(["sh", "-c", shlex.join(words)]),
            {"cmd": shlex.join(words)},
        ])
    )  # fmt: skip
    return command, (database, f"{before}{{app_id}}{after}", key)


@given(commands())
def test_a_command_in_any_style_becomes_its_entry(case: tuple[object, tuple[str | None, str, str]]) -> None:
    command, expected = case
    assume(APP not in json.dumps(command).replace(APP, "", 1))
    assert outcome(command) == expected


@given(st.lists(commands(), max_size=4), st.sampled_from(["array", "pretty", "lines"]))
def test_a_file_gives_its_commands_back(cases: list[tuple[object, object]], layout: str) -> None:
    listed = [command for command, _ in cases]
    if layout == "lines":
        assert read_commands("\n".join(json.dumps(command) for command in listed)) == (
            listed if len(listed) != 1 else [listed[0]]
        )
    else:
        assert read_commands(json.dumps(listed, indent=2 if layout == "pretty" else None)) == listed


@given(st.lists(commands(), min_size=1, max_size=4))
def test_a_script_gives_the_same_entries(cases: list[tuple[object, tuple[str | None, str, str]]]) -> None:
    lines = [command for command, _ in cases if isinstance(command, str) and "\r" not in command]
    script = "#!/bin/sh\n" + "\n\n# next\n".join(lines)
    assume(script.count("mongoexport") == len(lines))  # a quoted line feed in a uid before that word is refused
    expected = [outcome(line) for line in lines]
    assert [outcome(command) for command in read_commands(script)] == expected


SCALARS = st.one_of(
    st.sampled_from(
        ["1a", "", APP, 5, 1.5, True, None, [], ["1a"], {}, {"$oid": "0" * 24}, {"$date": 5}, {"$oid": "x"}]
    )
)
CONDITIONS = st.one_of(
    SCALARS,
    st.dictionaries(
        st.sampled_from(["$in", "$eq", "$nin", "$ne", "$exists", "$not", "$where", "$gt", "a"]),
        st.one_of(SCALARS, st.lists(SCALARS, max_size=3)),
        min_size=1,
        max_size=2,
    ),
)


def is_id(value: object) -> bool:
    return value in ("1a", {"$oid": "0" * 24}) or (value == 5 and not isinstance(value, bool))


def is_selector(condition: object) -> bool:
    """The rule once more, in the simplest words."""
    if isinstance(condition, dict) and "$oid" not in condition:
        return bool(condition) and all(
            (operator == "$in" and isinstance(operand, list) and bool(operand) and all(map(is_id, operand)))
            or (operator == "$eq" and is_id(operand))
            for operator, operand in condition.items()
        )
    return is_id(condition)


@given(st.dictionaries(st.sampled_from(["uid", "os", "_id", "$where", "x.uid", "$nor"]), CONDITIONS, max_size=2))
@example({"uid": {"$in": ["1a"], "$nin": []}})
def test_only_a_plain_selector_on_one_user_key_is_accepted(query: dict[str, object]) -> None:
    accepted = isinstance(run(asking(json.dumps(query))), ImportedEntry)
    assert accepted == (
        len(query) == 1 and all(key in ("uid", "_id", "x.uid") and is_selector(value) for key, value in query.items())
    )


FRAGMENTS = st.sampled_from([
    "mongoexport", "mongodump", "--db", "countly", "--collection", USERS, "-c", "-q", QUERY, "{", "}", "'", '"', "\\",
    "$", "$(", ")", "`", "|", ";", "&&", ">", "<", "\n", "=", "--query=", "--uri", "mongodb://u:p@h/x", "sh -c", "sudo",
    "docker exec m", "{}", '{"uid":"1a"}', "{uid:{$nin:['1a']}}", "function(){}", "/x/", "ObjectId(", "--", "-", "",
    "\ud800", "\u2019", "#", "[", ",", "--ssl", "true", "-qd", "-vvv", "--help", "\0", "new", "é", "-p",
])  # fmt: skip
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), FRAGMENTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.sampled_from(["cmd", "args", "x"]), inner, max_size=3),
    ),
    max_leaves=12,
)
LINES = st.lists(FRAGMENTS, max_size=14).flatmap(lambda words: st.sampled_from([" ".join(words), "".join(words)]))


@given(st.one_of(LINES, st.text(), JSON_VALUES, st.lists(FRAGMENTS, max_size=14)))
def test_garbage_never_crashes_and_never_becomes_an_entry_without_a_selector(command: object) -> None:
    done = run(command)
    if isinstance(done, ImportedEntry):
        text = command if isinstance(command, str) else json.dumps(command)
        assert "mongoexport" in text
        assert "uid" in text
        assert USERS in text
        assert (done.collection, done.user_key) == ("app_users{app_id}", "uid")


@given(st.one_of(LINES, st.text(), JSON_VALUES.map(json.dumps), JSON_VALUES.map(lambda value: json.dumps(value)[:-1])))
def test_any_file_is_commands_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(BadInputError):
        found = read_commands(text)
        result = import_commands(found, APP)
        assert len(result.entries) + len(result.refused) == len(found)


SECRET = "hunter2"
WITH_SECRETS = st.sampled_from([
    ["--password", SECRET], ["--password=" + SECRET], ["-p" + SECRET], ["-p", SECRET], ["-p=" + SECRET],
    ["--password" + SECRET], ["-password", SECRET], ["-password=" + SECRET], ["--pasword=" + SECRET],
    ["--password " + SECRET], ["--password " + SECRET + " " + SECRET], ["-u", SECRET], ["--username=" + SECRET],
    ["--uri", f"mongodb://{SECRET}:{SECRET}@{SECRET}.net/countly"], ["--uri", SECRET], [f"mongodb://u:{SECRET}@h"],
    [f"mongodb://u:a/{SECRET}@h"], [f"mongodb://u:a?{SECRET}@h/x"], [f"mongodb://u:a@/{SECRET}?b@h/x"],
    ["--host", SECRET + ":1"], ["--host", f"mongodb://{SECRET}"], ["--out", f"/{SECRET} --db x"], [SECRET],
    ["--" + SECRET], ["-" + SECRET], [f"--ssl={SECRET}"], ["--verbose=" + SECRET], ["--queryFile", SECRET],
    ["-q", f'{{"uid":"{SECRET}"}}'], ["-q", f'{{"uid":{{"$in":["{SECRET}"]}}}}'], ["-q", f'{{"uid":"{SECRET}'],
    ["-q", f'{{"{SECRET}":1}}'], ["-q", f'{{"uid":"1a","a.{SECRET}":1}}'], ["-q", f'{{"{SECRET}.uid":"1a"}}'],
    ["-q", f'{{"uid":{{"${SECRET}":1}}}}'], ["-q", f"{{uid:{SECRET}}}"], ["-q", f'{{"$where":"{SECRET}"}}'],
    ["-q", f'{{"uid":"1a"}} {SECRET}'], ["-q", f'{{"uid":"1a"}} --{SECRET}'], ["-q", f"{{uid: /{SECRET}/}}"],
    ["--sslPEMKeyPassword", SECRET], ["--awsSessionToken", SECRET], ["--config", SECRET], ["--sort", SECRET],
])  # fmt: skip


@given(
    st.lists(st.one_of(WITH_SECRETS, st.sampled_from([BASE, ["-q", QUERY], *NOISE])), max_size=6).map(
        lambda groups: [word for group in groups for word in group]
    ),
    st.sampled_from(["list", "object", "line", "unquoted", "shell", "docker"]),
)
def test_no_secret_and_no_uid_is_repeated(arguments: list[str], form: str) -> None:
    words = ["mongoexport", *BASE, "-q", QUERY, *arguments]
    command: object = {
        "list": words,
        "object": {"cmd": "mongoexport", "args": words[1:]},
        "line": shlex.join(words),
        "unquoted": " ".join(words),
        "shell": shlex.join(["sh", "-c", shlex.join(words)]),
        "docker": shlex.join(["docker", "exec", "-e", f"P={SECRET}", SECRET, *words]),
    }[form]
    result = import_commands([command, SECRET, [SECRET, SECRET], {"cmd": SECRET, SECRET: 1}], APP)
    assert isinstance(result, ImportResult)
    assert SECRET not in repr(result)
    assert "1a" not in repr(result).replace(APP, "")
