"""Malformed tables of observations: ``python tests/malformed/tables.py SEED COUNT``."""

import gzip
import io

from common import by_hand

HEAD = "time,variable,value,std"
COMMANDS = (
    "assimilate --observations t.csv --system lorenz63 --members 4 --threads 1",
    "inspect t.csv",
    "assimilate --observations t.csv --system lorenz63 --members 4 --std 1 --threads 1",
)
ODD = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e308",
    "-1",
    "0",
    "abc",
    "2019-01-01",
    "2019-01-01T00:00Z",
    "12:30",
    "1,5",
    "NULL",
    "None",
    "true",
    '"',
    "'",
    "\0",
    "\x1b[31m",
    "[/b]",
    "[bold]",
    "é",
    "１２",
    "∞",
    "1e-400",
    "0x10",
    "1_000",
    "+-1",
    "--1",
    "=1+1",
    "9" * 400,
    "x" * 5000,
    "20190301",
    "1e6",
    "2e5",
    "#",
    "\\N",
    "-",
    "1970-01-01T00:00:00.000000001",
    "0000-00-00",
    "9999-99-99",
    "20190230",
    "1e6s",
    "2019-W01-1",
    "NaT",
    "-9999",
    "\ufeff",
    "\u202e",
]


def rows(count=12):
    return [
        [f"{0.1 * (k // 3 + 1):.1f}", "xyz"[k % 3], f"{k * 0.37 - 1:.2f}", "0.5"]
        for k in range(count)
    ]


def text(lines, head=HEAD, sep=",", end="\n"):
    return end.join([head, *(sep.join(line) for line in lines)]) + end


def write(folder, content, name="t.csv"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def command(rng):
    return COMMANDS[int(rng.integers(len(COMMANDS)))].split()


def kind(make):
    def made(folder, rng):
        write(folder, make(rng))
        return command(rng)

    return made


def odd(rng):
    return ODD[int(rng.integers(len(ODD)))]


def one_cell(rng):
    lines = rows()
    lines[int(rng.integers(len(lines)))][int(rng.integers(4))] = odd(rng)
    return text(lines)


def whole_column(rng):
    lines, column, value = rows(), int(rng.integers(4)), odd(rng)
    for line in lines:
        line[column] = value
    return text(lines)


def many_cells(rng):
    return text([[odd(rng) if rng.random() < 0.3 else cell for cell in line] for line in rows()])


def encoded(rng):
    names = ["utf-16", "utf-32", "latin-1", "cp1252", "utf-8-sig", "cp037", "utf-7", "shift-jis"]
    lines = rows()
    lines[2][1] = "é"
    name = names[int(rng.integers(len(names)))]
    return text(lines).encode(name, "replace")


def random_bytes(rng):
    return rng.bytes(int(rng.integers(0, 400)))


def quotes(rng):
    content = list(text(rows()))
    for _ in range(int(rng.integers(1, 6))):
        content.insert(int(rng.integers(len(content))), "\"'"[int(rng.integers(2))])
    return "".join(content)


def nul(rng):
    content = list(text(rows()))
    for _ in range(int(rng.integers(1, 20))):
        content.insert(int(rng.integers(len(content))), "\0")
    return "".join(content)


def ragged(rng):
    lines = rows()
    for line in lines:
        change = int(rng.integers(-3, 4))
        if rng.random() < 0.4:
            line[:] = line[:change] if change < 0 else [*line, *["1"] * change]
    return text(lines)


def delimiter(rng):
    sep = [";", "\t", "|", " ", ":", ",,", "\x1f", ", "][int(rng.integers(8))]
    return text(rows(), HEAD.replace(",", sep) if rng.random() < 0.7 else HEAD, sep)


def header(rng):
    heads = [
        "",
        HEAD + "\n" + HEAD,
        "time,time,value,std",
        "a,b,c,d",
        "time",
        "time,variable,value",
        "time,variable,value,std,",
        ",,,",
        "TIME,VARIABLE,VALUE,STD",
        "time,variable,value,std,units",
        '"time","variable","value","std"',
        "time;variable;value;std",
        "value,std",
        "# a table",
        "time,variable,value,[/std]",
        "time,variable,value,std\ntime,variable,value,std",
        "time,variable,value,std,point",
        "time,variable,value,std,latitude,longitude",
        "\ufefftime",
        "time,variable,value,std" + ",x" * 50,
        "time ,variable ,value ,std ",
        "time\0,variable,value,std",
    ]
    return text(rows(), heads[int(rng.integers(len(heads)))])


def ends(rng):
    end = ["\r", "\r\n", "\n\r", "\n\n", "\x0b", "\x85", "\u2028", "\0"][int(rng.integers(8))]
    return text(rows(), end=end)


def empty(rng):
    contents = [
        "",
        "\n",
        "\n\n\n",
        " ",
        ",",
        HEAD,
        HEAD + "\n",
        HEAD + "\n,,,\n",
        "\ufeff",
        "\0",
        '"',
    ]
    return contents[int(rng.integers(len(contents)))]


def one_column(rng):
    return "\n".join(["value", *(line[2] for line in rows())])


def dates(rng):
    forms = [
        "2019-01-01T00:00",
        "2019/01/01",
        "01.02.2019",
        "0.1",
        "20190101",
        "2019-01-01 00:00+05:00",
        "2019-13-01",
        "0099-01-01",
    ]
    lines = rows()
    for line in lines:
        line[0] = forms[int(rng.integers(len(forms)))]
    return text(lines)


def far_time(rng):
    lines = rows()[: int(rng.integers(1, 6))]
    lines[-1][0] = ["1e6", "2e4", "1e5", "9e4", "1e15", "1e300"][int(rng.integers(6))]
    return text(lines)


def wide(rng):
    count = int(rng.choice([1000, 100_000]))
    more = [f"c{k}" for k in range(count)]
    tail = ["1"] * count
    return text([[*line, *tail] for line in rows(2)], ",".join([HEAD, *more]))


def units(rng):
    words = [
        "K",
        "furlong",
        "m/",
        "**",
        "1e999",
        "degC",
        "%",
        "[/b]",
        "m^^2",
        "",
        "(",
        "lambda: 1",
        "__import__('os')",
        "\0",
        "9" * 999 + "m",
        "m" + "**9" * 60,
    ]
    word = words[int(rng.integers(len(words)))]
    return text([[*line, word] for line in rows()], HEAD + ",units")


def long_line(rng):
    lines = rows()
    lines[3][int(rng.integers(4))] = "7" * int(rng.choice([10_000, 5_000_000]))
    return text(lines)


def compressed(folder, rng):
    data = bytearray(gzip.compress(text(rows()).encode()))
    how = int(rng.integers(4))
    if how == 0:
        data = data[: int(rng.integers(len(data)))]
    elif how == 1:
        data[int(rng.integers(len(data)))] ^= 255
    elif how == 2:
        data = bytearray(text(rows()).encode())
    ending = ["gz", "bz2", "xz", "zip", "zst"][int(rng.integers(5))]
    write(folder, bytes(data), f"t.csv.{ending}")
    return [word.replace("t.csv", f"t.csv.{ending}") for word in command(rng)]


def other_kind(folder, rng):
    import pandas

    buffer = io.BytesIO()
    pandas.DataFrame({"time": [0.1], "value": [1.0]}).to_pickle(buffer)
    contents = [
        buffer.getvalue(),
        b"PAR1" + rng.bytes(50),
        b"\x89HDF\r\n\x1a\n" + rng.bytes(50),
        b"CDF\x01" + rng.bytes(90),
        b"<html>",
        b"{}",
        b"PK\x03\x04" + rng.bytes(40),
        text(rows()).encode(),
    ]
    name = (
        f"t.{['csv', 'parquet', 'nc', 'txt', 'zarr', 'pickle', 'tsv', ''][int(rng.integers(8))]}"
    )
    write(folder, contents[int(rng.integers(len(contents)))], name)
    return [word.replace("t.csv", name) for word in command(rng)]


def no_file(folder, rng):
    how = int(rng.integers(6))
    if how == 0:
        (folder / "t.csv").mkdir()
    elif how == 1:
        (folder / "t.csv").symlink_to("t.csv")
    elif how == 2:
        (folder / "t.csv").symlink_to("gone.csv")
    name = {3: "no/t.csv", 4: "t" * 300 + ".csv", 5: "[/t].csv"}.get(how, "t.csv")
    return [word.replace("t.csv", name) for word in command(rng)]


KINDS = {
    make.__name__: kind(make)
    for make in (
        one_cell,
        whole_column,
        many_cells,
        encoded,
        random_bytes,
        quotes,
        nul,
        ragged,
        delimiter,
        header,
        ends,
        empty,
        one_column,
        dates,
        far_time,
        wide,
        units,
        long_line,
    )
}
KINDS |= {make.__name__: make for make in (compressed, other_kind, no_file)}

if __name__ == "__main__":
    by_hand(KINDS)
