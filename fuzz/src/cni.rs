use cni_plugin::fuzz::{Served, args, result, serve, valid_attachments};
use ipam::gojson::Object;

use crate::text;

/// What a runtime gives to a CNI plugin: a configuration on stdin, and CNI_ARGS.
pub fn cni(data: &[u8]) {
    let text = text(data);
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let served = serve(verb, &text);
        answered(verb, &served);
        let name = Some(served.name);
        for conf in &served.derived {
            let conf = Object::parse(conf).expect("what we derive is JSON");
            assert_eq!(conf.string("name").expect("ours"), name);
        }
    }
    // None of them panics.
    let _ = (args(&text), result(&text), valid_attachments(&text));
}

/// What a runtime can take: a result, nothing, or an error with a code.
fn answered(verb: &str, Served { stdout, ok, .. }: &Served) {
    if *ok && verb != "ADD" {
        assert_eq!(stdout, "");
        return;
    }
    let answer = Object::parse(stdout).expect("an answer is JSON");
    let code = answer.integer::<u32>("code").expect("a number");
    assert_eq!(code.is_some_and(|code| code > 0), !ok, "{stdout}");
}
