use super::*;

const KEEP: Duration = Duration::from_secs(100);

fn kv(key: &str, public: &str, revision: i64) -> Kv {
    Kv {
        key: key.into(),
        value: format!(r#"{{"PublicIP":"{public}","PublicIPv6":null}}"#)
            .into_bytes(),
        create_revision: revision,
        mod_revision: revision,
        lease_id: 7,
    }
}

fn garbage(key: &str, revision: i64) -> Kv {
    Kv { value: b"{".to_vec(), ..kv(key, "", revision) }
}

fn keys(entries: &Entries) -> Vec<String> {
    entries.peers(None).keys().map(SubnetKey::to_string).collect()
}

fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

#[test]
fn old_news_change_nothing() {
    let mut entries = Entries::default();
    let it = key("10.5.1.0-24");
    assert_eq!(entries.put(kv("10.5.1.0-24", "1.1.1.1", 2)), [it]);
    assert_eq!(entries.put(kv("10.5.1.0-24", "1.1.1.2", 4)), [it]);
    assert_eq!(entries.put(kv("10.5.1.0-24", "1.1.1.3", 4)), []);
    assert_eq!(entries.put(kv("10.5.1.0-24", "1.1.1.3", 3)), []);
    assert_eq!(entries.delete("10.5.1.0-24", 3), None);
    let attrs = entries.get(&it).unwrap().attrs.clone().unwrap();
    assert_eq!(attrs.public.v4, Some([1, 1, 1, 2].into()));
    assert_eq!(entries.delete("10.5.1.0-24", 5), Some(it));
    assert_eq!(entries.delete("10.5.1.0-24", 5), None);
}

/// W-1: neither a bad key nor a bad value touches anything else, and a lease
/// whose value becomes unreadable keeps what was known.
#[test]
fn one_bad_entry_hides_only_itself() {
    let mut entries = Entries::default();
    entries.replace(
        vec![
            kv("10.5.1.0-24", "1.1.1.1", 2),
            kv("10.5.2.0-24", "1.1.1.2", 3),
            garbage("10.5.3.0-24", 4),
            kv("x", "1.1.1.4", 5),
        ],
        false,
        KEEP,
    );
    assert_eq!(keys(&entries), ["10.5.1.0-24", "10.5.2.0-24"]);
    assert_eq!(entries.listed().len(), 3, "the bad value occupies its key");
    entries.put(garbage("10.5.2.0-24", 6));
    assert_eq!(keys(&entries), ["10.5.1.0-24", "10.5.2.0-24"]);
    let entry = entries.get(&key("10.5.2.0-24")).unwrap();
    assert!(!entry.readable);
    assert_eq!(entry.mod_revision, 6);
    let list = vec![kv("10.5.1.0-24", "1.1.1.1", 2), garbage("10.5.2.0-24", 6)];
    entries.replace(list, false, KEEP);
    assert_eq!(keys(&entries), ["10.5.1.0-24", "10.5.2.0-24"]);
}

#[test]
fn sub_folders_and_odd_spellings_are_no_leases_but_occupy() {
    let mut entries = Entries::default();
    entries.put(kv("10.5.1.0-24", "1.1.1.1", 9));
    assert_eq!(entries.put(kv("x/10.5.1.0-24", "1.1.1.1", 2)), []);
    assert_eq!(entries.put(kv("10.5.2.7-24", "1.1.1.1", 3)), []);
    let occupied: Vec<SubnetKey> = entries.occupied().into_iter().collect();
    assert_eq!(occupied, [key("10.5.1.0-24"), key("10.5.2.0-24")]);
    assert_eq!(entries.delete("x/10.5.1.0-24", 4), None);
    assert_eq!(entries.occupied().len(), 1);
    assert!(entries.get(&key("10.5.1.0-24")).is_some());
    entries.replace(Vec::new(), false, KEEP);
    assert!(entries.occupied().is_empty());
}

#[test]
fn a_list_removes_what_is_not_in_it() {
    let mut entries = Entries::default();
    entries.put(kv("10.5.1.0-24", "1.1.1.1", 2));
    entries.put(kv("10.5.2.0-24", "1.1.1.2", 3));
    entries.replace(vec![kv("10.5.2.0-24", "1.1.1.2", 3)], false, KEEP);
    assert_eq!(keys(&entries), ["10.5.2.0-24"]);
}

/// All before revision 10 was heard of. What a list says of that time must fit,
/// and only that.
#[test]
fn a_list_of_another_store_contradicts() {
    let known = kv("10.5.1.0-24", "1.1.1.1", 5);
    let mut entries = Entries::default();
    entries.replace(vec![known.clone()], false, KEEP);
    let contradicted = |kv: Kv| entries.contradicted(&[kv], 10);
    assert!(!contradicted(known.clone()));
    assert!(!entries.contradicted(&[], 10), "deleted since");
    assert!(!contradicted(Kv {
        mod_revision: 10,
        lease_id: 8,
        ..known.clone()
    }));
    assert!(!contradicted(kv("10.5.1.0-24", "1.1.1.1", 10)), "begun anew");
    assert!(!contradicted(kv("10.5.2.0-24", "1.1.1.2", 10)), "new");
    assert!(!contradicted(kv("x", "1.1.1.2", 3)), "no lease");
    assert!(contradicted(kv("10.5.2.0-24", "1.1.1.2", 9)), "unknown");
    assert!(contradicted(Kv { lease_id: 8, ..known.clone() }));
    assert!(contradicted(Kv { mod_revision: 6, ..known.clone() }));
    let older = Kv { create_revision: 4, mod_revision: 10, ..known.clone() };
    assert!(contradicted(older), "of another origin");
    // an answer that came after the list was read
    let newer = Kv { mod_revision: 12, lease_id: 9, ..known.clone() };
    entries.put(newer);
    assert!(!entries.contradicted(std::slice::from_ref(&known), 10));
    // what is missing in a store is not known of it
    entries.replace(Vec::new(), true, KEEP);
    assert!(entries.contradicted(&[known], 20));
}

#[test]
fn a_store_that_went_back_removes_nothing_for_a_while() {
    let mut entries = Entries::default();
    entries.put(kv("10.5.1.0-24", "1.1.1.1", 20));
    entries.put(kv("10.5.2.0-24", "1.1.1.2", 30));
    entries.put(kv("10.5.4.0-24", "1.1.1.4", 31));
    entries.replace(Vec::new(), true, KEEP);
    assert_eq!(keys(&entries).len(), 3);
    assert_eq!(entries.next_expiry(), Some(KEEP));
    // its node registers again, with a lower revision
    entries.put(kv("10.5.1.0-24", "1.1.1.1", 2));
    // another one takes the subnets of a missing one
    let changed = entries.put(kv("10.5.2.0-23", "1.1.1.3", 3));
    assert_eq!(changed, [key("10.5.2.0-24"), key("10.5.2.0-23")]);
    assert!(entries.get(&key("10.5.2.0-24")).is_none());
    // an ordinary list does not end the wait
    let list = vec![kv("10.5.1.0-24", "1.1.1.1", 2)];
    entries.replace(list, false, KEEP * 2);
    assert_eq!(keys(&entries), ["10.5.1.0-24", "10.5.4.0-24"]);
    assert_eq!(entries.expire_missing(KEEP), [key("10.5.4.0-24")]);
    assert_eq!(entries.next_expiry(), None);
}

/// What a store that went back lacks gives way to what its node has now: by
/// its address, or by its tunnel's Ethernet address if that has moved. Else
/// the new one would be left out for a day, as its Ethernet address is behind
/// two published addresses.
#[test]
fn what_is_missing_gives_way_to_its_nodes_next_lease() {
    let with_mac = |key, public, revision, mac| {
        Kv {
        value: format!(
            r#"{{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{mac}"}}}}"#
        )
        .into_bytes(),
        ..kv(key, public, revision)
    }
    };
    let mut entries = Entries::default();
    entries.put(with_mac("10.5.1.0-24", "1.1.1.1", 20, "01"));
    entries.put(with_mac("10.5.2.0-24", "1.1.1.2", 21, "02"));
    entries.put(with_mac("10.5.3.0-24", "1.1.1.3", 22, "03"));
    entries.put(kv("10.5.4.0-24", "1.1.1.4", 23));
    let own = key("10.5.4.0-24");
    entries.replace(Vec::new(), true, KEEP);
    assert_eq!(entries.give_way(None, Some(&own)), []);

    entries.put(with_mac("10.5.7.0-24", "1.1.1.1", 2, "09"));
    let of = key("10.5.7.0-24");
    let gone = entries.give_way(Some(&of), Some(&own));
    assert_eq!(gone, [key("10.5.1.0-24")], "the same address");
    // a list that has one with the same Ethernet address, and one of our own
    let list = vec![
        with_mac("10.5.7.0-24", "1.1.1.1", 2, "09"),
        with_mac("10.5.8.0-24", "1.1.1.99", 3, "02"),
        kv("10.5.9.0-24", "1.1.1.4", 4),
    ];
    entries.replace(list, false, KEEP);
    let gone = entries.give_way(None, Some(&own));
    assert_eq!(gone, [key("10.5.2.0-24")]);
    assert_eq!(
        keys(&entries),
        [
            "10.5.3.0-24",
            "10.5.4.0-24",
            "10.5.7.0-24",
            "10.5.8.0-24",
            "10.5.9.0-24"
        ]
    );
}
