//! resolv.conf as host-local reads it (HL-23).

use crate::result::Dns;

/// Takes up what a result can carry. Comments at the end of a line are not
/// known to the format.
pub(super) fn parse(text: &str) -> Dns {
    let mut out = Dns::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(key), Some(first)) = (words.next(), words.next()) else {
            continue;
        };
        match key.as_str() {
            "nameserver" => out.nameservers.push(first),
            "domain" => out.domain = first,
            "search" => out.search.extend([first].into_iter().chain(words)),
            "options" => out.options.extend([first].into_iter().chain(words)),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CT-27
    #[test]
    fn all_members() {
        let dns = parse(
            "# comment\n; other\nnameserver 10.0.0.1\nnameserver fd00::1\n\
             search a.example b.example\nsearch c.example\ndomain old\n\
             domain new.example\noptions ndots:5 edns0\nsortlist x\nsearch\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.1", "fd00::1"]);
        assert_eq!(dns.search, ["a.example", "b.example", "c.example"]);
        assert_eq!(dns.domain, "new.example");
        assert_eq!(dns.options, ["ndots:5", "edns0"]);
    }
}
