//! Tests of layers: precedence, units, contradictions.

use super::*;
use crate::testing::{map, settings};
use crate::{Command, Image};

fn errors(fixed: &[(&str, &str)]) -> Vec<String> {
    Settings::load(map(fixed))
        .expect_err("must be refused")
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn dynamic(base: &Settings, broker: &[(&str, &str)], default: &[(&str, &str)]) -> Settings {
    let mut image = Image::new();
    for (offset, id, configs) in [(0, Some(1), broker), (1, None, default)] {
        let resource = ConfigResource::Broker(id);
        image = image
            .apply(
                offset,
                &Command::AlterConfigs {
                    resource,
                    sets: map(configs),
                    removes: vec![],
                },
            )
            .0;
    }
    base.with_dynamic(&image, 1)
}

#[test]
fn every_default_stands_alone() {
    let settings = settings(&[]);
    assert_eq!(
        (settings.node_id(), settings.log_dir().as_str()),
        (1, "/tmp/kafka-logs")
    );
    assert_eq!(settings.long("log.retention.check.interval.ms"), 300_000);
    assert!(settings.boolean("auto.create.topics.enable"));
    assert_eq!(settings.text("broker.rack"), None);
    assert_eq!(settings.list("process.roles"), ["broker", "controller"]);
    assert_eq!(
        settings.http_listener(),
        Ok(Some(("127.0.0.1".into(), 9644)))
    );
    for key in keys(Scope::Topic) {
        assert_eq!(
            settings.inherited(key).value.as_deref(),
            key.default,
            "{}: the table says it twice",
            key.name
        );
    }
    for key in keys(Scope::Group) {
        assert_eq!(
            settings.inherited(key).value.as_deref(),
            key.default,
            "{}: the table says it twice",
            key.name
        );
    }
}

#[test]
fn precedence_is_dynamic_broker_dynamic_default_static_default() {
    let fixed = settings(&[("message.max.bytes", "4")]);
    let source = |settings: &Settings| {
        (
            settings.int("message.max.bytes"),
            settings.resolve("message.max.bytes").expect("known").source,
        )
    };
    assert_eq!(source(&settings(&[])), (1_048_588, Source::Default));
    assert_eq!(source(&fixed), (4, Source::StaticBroker));
    assert_eq!(
        source(&dynamic(&fixed, &[], &[("message.max.bytes", "3")])),
        (3, Source::DynamicDefaultBroker)
    );
    let both = dynamic(
        &fixed,
        &[("message.max.bytes", "2")],
        &[("message.max.bytes", "3")],
    );
    assert_eq!(source(&both), (2, Source::DynamicBroker));
    assert_eq!(both.synonyms("message.max.bytes").len(), 4);
}

#[test]
fn stored_values_this_program_does_not_accept_do_not_count() {
    let base = settings(&[]);
    let odd = [
        ("message.max.bytes", "x"),
        ("num.partitions", "5"),
        ("key.of.the.future", "1"),
    ];
    let settings = dynamic(&base, &odd, &[]);
    assert_eq!(
        (
            settings.int("message.max.bytes"),
            settings.int("num.partitions")
        ),
        (1_048_588, 1)
    );
}

#[test]
fn units_of_retention() {
    for (fixed, expected) in [
        (&[][..], "604800000"),
        (&[("log.retention.hours", "-1")], "-1"),
        (
            &[("log.retention.hours", "1"), ("log.retention.minutes", "1")],
            "60000",
        ),
        (
            &[
                ("log.retention.hours", "1"),
                ("log.retention.minutes", "1"),
                ("log.retention.ms", "1"),
            ],
            "1",
        ),
        (&[("log.retention.hours", "2147483647")], "7730941129200000"),
    ] {
        let key = find(Scope::Topic, "retention.ms").expect("a key");
        assert_eq!(
            settings(fixed).inherited(key).value.as_deref(),
            Some(expected),
            "{fixed:?}"
        );
    }
}

#[test]
fn every_value_a_broker_key_takes_is_one_its_topic_key_takes() {
    let values = [
        "-5",
        "-2",
        "-1",
        "0",
        "1",
        "14",
        "4096",
        "1048576",
        "2147483647",
        "9223372036854775807",
    ];
    for key in keys(Scope::Topic).chain(keys(Scope::Group)) {
        for synonym in key.synonyms {
            let broker = find(Scope::Broker, synonym.name).expect("a key");
            for value in values.iter().filter(|value| broker.check(value).is_ok()) {
                let fixed = Settings {
                    layers: Arc::new(Layers {
                        fixed: map(&[(synonym.name, value)]),
                        ..Layers::default()
                    }),
                };
                let inherited = fixed.inherited(key).value.expect("set");
                assert_eq!(
                    key.check(&inherited),
                    Ok(()),
                    "{}={value} gives {}={inherited}",
                    synonym.name,
                    key.name
                );
            }
        }
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let all = errors(&[
        ("num.partition", "1"),
        ("log.retention.ms", "x"),
        ("authorizer.class.name", "A"),
    ]);
    assert_eq!(all.len(), 3);
    assert!(
        all.iter()
            .any(|text| text.contains("Did you mean num.partitions?")),
        "{all:?}"
    );
}

#[test]
fn contradictions() {
    for (fixed, part) in [
        (&[("node.id", "1"), ("broker.id", "2")][..], "two names"),
        (&[("log.dirs", "/a,/b")], "2 directories"),
        (&[("process.roles", "broker")], "both roles"),
        (
            &[
                ("klamm.cluster.secret", "a"),
                ("klamm.cluster.secret.file", "b"),
            ],
            "give one",
        ),
        (&[("controller.quorum.voters", "1")], "id@host:port"),
        (&[("controller.quorum.bootstrap.servers", "x")], "host:port"),
        (&[("klamm.http.listener", "9644")], "HOST:PORT"),
        (&[("listeners", "nonsense")], "NAME://HOST:PORT"),
    ] {
        let all = errors(fixed);
        assert!(
            all.len() == 1 && all[0].contains(part),
            "{fixed:?}: {all:?}"
        );
    }
}

#[test]
fn inert_keys_are_named_with_the_reason() {
    let (_, notices) =
        Settings::load(map(&[("num.io.threads", "16"), ("num.partitions", "2")])).expect("valid");
    assert_eq!(
        notices
            .iter()
            .map(|notice| notice.key.as_str())
            .collect::<Vec<_>>(),
        ["num.io.threads"]
    );
}

#[test]
fn other_names_of_a_setting() {
    assert_eq!(settings(&[("broker.id", "7")]).node_id(), 7);
    assert_eq!(
        settings(&[("broker.id", "7"), ("node.id", "7")]).node_id(),
        7
    );
    assert_eq!(settings(&[("log.dir", "/d")]).log_dir(), "/d");
    assert_eq!(
        settings(&[("log.dir", "/d"), ("log.dirs", "/e")]).log_dir(),
        "/e"
    );
    assert_eq!(
        settings(&[("max.connections.per.ip.overrides", "a:1")]).connections_per_ip_overrides()["a"],
        1
    );
}

#[test]
fn secrets_are_not_in_debug_output() {
    let settings = settings(&[("klamm.cluster.secret", "hush")]);
    assert!(!format!("{settings:?}").contains("hush"));
    assert_eq!(
        settings.text("klamm.cluster.secret").as_deref(),
        Some("hush")
    );
}

#[test]
#[should_panic(expected = "not in the table")]
fn a_name_that_is_no_key_is_a_bug() {
    settings(&[]).int("no.such.key");
}
