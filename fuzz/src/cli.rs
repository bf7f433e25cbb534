use std::ffi::OsString;

use flanneld::cli::{Env, Options, Stop, env_name, parse};

use crate::text;

const PASSWORD: &str = "~~nobody-may-see-this~~";

/// A command line, a word a line.
pub fn cli(data: &[u8]) {
    let text = text(data);
    let words: Vec<&str> = text.lines().collect();

    let secret = format!("--etcd-password={PASSWORD}");
    let args = std::iter::once(secret.as_str()).chain(words.iter().copied());
    if let Err(stop) = parse(args.map(OsString::from), &Env::default()) {
        let said = stop.to_string();
        assert!(!said.is_empty() && !said.contains(PASSWORD), "{said}");
    }

    // One flag on the command line says what its variable says.
    let Some((flag, value)) = words
        .first()
        .and_then(|word| word.strip_prefix("--"))
        .and_then(|word| word.split_once('='))
    else {
        return;
    };
    let named = flag.starts_with(|c: char| c.is_ascii_lowercase())
        && !flag.contains(|c: char| c.is_ascii_uppercase());
    if !named || value.is_empty() || flag == "version" {
        return;
    }
    let by_flag = parse([OsString::from(format!("--{flag}={value}"))], &none());
    if matches!(&by_flag, Err(Stop::Usage(text)) if text.contains("not defined"))
        || matches!(by_flag, Err(Stop::Help(_)))
    {
        return;
    }
    let env = [(env_name(flag), value)].into_iter().collect();
    let by_env = parse([], &env);
    assert_eq!(shown(&by_flag), shown(&by_env), "{flag}={value}");
}

fn none() -> Env {
    Env::default()
}

/// What came of it. How an error is worded depends on where the value stood.
fn shown(result: &Result<Options, Stop>) -> Result<String, u8> {
    match result {
        Ok(options) => Ok(format!("{options:?}")),
        Err(stop) => Err(stop.exit_code()),
    }
}
