//! What every plugin answers, whatever it does (CT-44).

use std::cell::Cell;

use super::*;
use crate::cidr::Cidr;
use crate::result::IpConfig;

/// Answers every verb; ADD gives one address, the rest an error if told so.
#[derive(Default)]
struct Fake {
    fail: Option<CniError>,
    called: Cell<Option<&'static str>>,
}

impl Fake {
    fn done(&self, verb: &'static str) -> Result<(), CniError> {
        self.called.set(Some(verb));
        self.fail.clone().map_or(Ok(()), Err)
    }
}

impl Plugin for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn add(&self, _: &Call) -> Result<CniResult, CniError> {
        self.done("ADD")?;
        let address = Cidr { ip: [10, 0, 0, 2].into(), len: 24 };
        let ip = IpConfig { interface: None, address, gateway: None };
        Ok(CniResult { ips: vec![ip], ..CniResult::default() })
    }

    fn del(&self, _: &Call) -> Result<(), CniError> {
        self.done("DEL")
    }

    fn check(&self, _: &Call) -> Result<(), CniError> {
        self.done("CHECK")
    }

    fn gc(&self, _: &Call) -> Result<(), CniError> {
        self.done("GC")
    }

    fn status(&self, _: &Call) -> Result<(), CniError> {
        self.done("STATUS")
    }
}

fn env(command: &str) -> Env {
    Env {
        command: command.into(),
        container_id: "c".into(),
        netns: "/n".into(),
        ifname: "eth0".into(),
        ..Env::default()
    }
}

fn ask(plugin: &Fake, command: &str, conf: &str) -> Answer {
    answer(plugin, env(command), |_| Ok(conf.to_owned()))
}

fn conf(version: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","name":"n","type":"fake"}}"#)
}

/// Code and message of an answer that is an error.
fn error(answer: &Answer) -> (u32, String) {
    assert!(!answer.ok);
    let error = ipam::gojson::Object::parse(&answer.stdout).unwrap();
    let code = error.integer("code").unwrap().unwrap();
    (code, error.string("msg").unwrap().unwrap())
}

#[test]
fn a_person_gets_the_about_text() {
    let answer = answer(&Fake::default(), Env::default(), |_| unreachable!());
    assert!(answer.ok && answer.stdout.is_empty());
    assert!(answer.stderr.starts_with("CNI Plugin fake version "));
    assert!(answer.stderr.ends_with(
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, \
         1.0.0, 1.1.0\n"
    ));
}

#[test]
fn version_leaves_stdin_alone() {
    let answer = answer(&Fake::default(), env("VERSION"), |_| unreachable!());
    assert!(answer.ok);
    assert!(answer.stdout.ends_with("\"1.1.0\"]}\n"));
}

/// S-13
#[test]
fn order_of_checks() {
    let plugin = Fake::default();
    let mut bad = env("ADD");
    bad.ifname = "a/b".into();
    let got = answer(&plugin, bad, |_| unreachable!());
    assert_eq!(error(&got).0, 4);
    let unreadable = |_: &Deadline| Err(CniError::new(code::IO, "closed"));
    let got = answer(&plugin, env("ADD"), unreadable);
    assert_eq!(error(&got).0, 5);
    for (conf, code, msg) in [
        ("oops", 6, "not valid JSON"),
        ("", 6, "not valid JSON"),
        ("{}", 7, "missing network name"),
        ("null", 7, "missing network name"),
        (r#"{"name":"a b","cniVersion":"9"}"#, 7, "invalid characters"),
        (r#"{"name":"n","cniVersion":"9"}"#, 1, "incompatible CNI versions"),
        (r#"{"name":"n","cniVersion":1}"#, 6, "cniVersion is 1"),
    ] {
        for verb in ["ADD", "DEL"] {
            let got = error(&ask(&plugin, verb, conf));
            assert_eq!(got.0, code, "{conf}");
            assert!(got.1.contains(msg), "{conf}: {}", got.1);
        }
    }
    assert_eq!(plugin.called.get(), None);
    // an unknown command comes after the name, before the version
    assert_eq!(error(&ask(&plugin, "FOO", "{}")).0, 7);
    let got = error(&ask(&plugin, "FOO", &conf("9")));
    assert_eq!(got, (4, "unknown CNI_COMMAND: FOO".into()));
}

#[test]
fn verbs_and_the_versions_that_have_them() {
    for (verb, since) in [
        ("ADD", Version::V010),
        ("DEL", Version::V010),
        ("CHECK", Version::V040),
        ("GC", Version::V110),
        ("STATUS", Version::V110),
    ] {
        for version in Version::ALL {
            let plugin = Fake::default();
            let answer = ask(&plugin, verb, &conf(version.as_str()));
            let reached = plugin.called.get() == Some(verb);
            assert_eq!(reached, version >= since, "{verb} {version:?}");
            assert_eq!(answer.ok, reached);
            if !reached {
                let msg = format!("config version does not allow {verb}");
                assert_eq!(error(&answer), (1, msg));
            } else if verb != "ADD" {
                assert_eq!(answer.stdout, "");
            }
        }
    }
}

#[test]
fn results_have_the_configurations_version() {
    for (version, key) in
        [("", "\"0.1.0\""), ("0.4.0", "\"0.4.0\""), ("1.1.0", "\"1.1.0\"")]
    {
        let answer = ask(&Fake::default(), "ADD", &conf(version));
        let start = format!("{{\n    \"cniVersion\": {key},\n");
        assert!(answer.stdout.starts_with(&start), "{}", answer.stdout);
        assert!(answer.stdout.ends_with('}'), "no newline");
    }
}

#[test]
fn errors_have_it_too() {
    let fail = Some(CniError::new(11, "x not found"));
    let plugin = Fake { fail, ..Fake::default() };
    let got = ask(&plugin, "ADD", &conf("0.3.1"));
    assert!(got.stdout.starts_with("{\n    \"cniVersion\": \"0.3.1\",\n"));
    assert_eq!(error(&got), (11, "x not found".into()));
    // what a runtime would take for success of a DEL
    let got = ask(&plugin, "DEL", &conf("0.3.1"));
    assert_eq!(error(&got), (11, "x missing".into()));
}
