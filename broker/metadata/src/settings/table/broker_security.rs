//! Broker keys: authentication, encryption, authorization.

use super::super::key::Kind::{Boolean, Class, Double, Int, List, Long, Password, Short, String};
use super::super::key::{Accepts, Key, broker, broker_null};
use super::reasons::{NO_AUTHORIZER, NO_SECURITY};

pub(super) const KEYS: &[Key] = &[
    broker(String, "authorizer.class.name", "")
        .accepts(Accepts::OnlyEmpty(NO_AUTHORIZER))
        .doc("Class that decides who may do what. Only empty, for no authorization, is accepted."),
    broker(String, "super.users", "")
        .inert(NO_SECURITY)
        .doc("Principals that may do everything, separated by semicolons."),
    broker(Boolean, "allow.everyone.if.no.acl.found", "false")
        .inert(NO_SECURITY)
        .doc("Whether a resource without access rules is open to everyone."),
    broker(
        Class,
        "principal.builder.class",
        "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder",
    )
    .per_broker()
    .inert(NO_SECURITY)
    .doc("Class that names the principal of a connection."),
    broker_null(String, "security.providers")
        .inert(NO_SECURITY)
        .doc("Classes that provide security algorithms."),
    broker(List, "sasl.enabled.mechanisms", "GSSAPI")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("SASL mechanisms that clients may use."),
    broker(String, "sasl.mechanism.inter.broker.protocol", "GSSAPI")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("SASL mechanism between brokers."),
    broker(String, "sasl.mechanism.controller.protocol", "GSSAPI")
        .inert(NO_SECURITY)
        .doc("SASL mechanism between controllers."),
    broker_null(Password, "sasl.jaas.config")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Login module and its options, in JAAS form."),
    broker_null(Class, "sasl.client.callback.handler.class")
        .inert(NO_SECURITY)
        .doc("Class that answers questions of a SASL client."),
    broker_null(Class, "sasl.server.callback.handler.class")
        .inert(NO_SECURITY)
        .doc("Class that answers questions of the SASL server."),
    broker_null(Class, "sasl.login.class")
        .inert(NO_SECURITY)
        .doc("Class that logs in for SASL."),
    broker_null(Class, "sasl.login.callback.handler.class")
        .inert(NO_SECURITY)
        .doc("Class that answers questions of a SASL login."),
    broker(Int, "sasl.server.max.receive.size", "524288")
        .inert(NO_SECURITY)
        .doc("Largest SASL message in bytes that a client may send."),
    broker_null(String, "sasl.kerberos.service.name")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Kerberos principal name that brokers run as."),
    broker(String, "sasl.kerberos.kinit.cmd", "/usr/bin/kinit")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Path of the program that renews Kerberos tickets."),
    broker(Double, "sasl.kerberos.ticket.renew.window.factor", "0.8")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Share of a ticket's life after which it is renewed."),
    broker(Double, "sasl.kerberos.ticket.renew.jitter", "0.05")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Random part of the time of renewal."),
    broker(Long, "sasl.kerberos.min.time.before.relogin", "60000")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Shortest time in milliseconds between two renewals."),
    broker(List, "sasl.kerberos.principal.to.local.rules", "DEFAULT")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Rules that make short names of Kerberos principals."),
    broker(Double, "sasl.login.refresh.window.factor", "0.8")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Share of a credential's life after which it is refreshed."),
    broker(Double, "sasl.login.refresh.window.jitter", "0.05")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Random part of the time of refresh."),
    broker(Short, "sasl.login.refresh.min.period.seconds", "60")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Shortest time in seconds before a credential is refreshed."),
    broker(Short, "sasl.login.refresh.buffer.seconds", "300")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Time in seconds before expiry at which a credential is refreshed."),
    broker_null(Int, "sasl.login.connect.timeout.ms")
        .inert(NO_SECURITY)
        .doc("Time in milliseconds that connecting to the identity provider may take."),
    broker_null(Int, "sasl.login.read.timeout.ms")
        .inert(NO_SECURITY)
        .doc("Time in milliseconds that an answer of the identity provider may take."),
    broker(Long, "sasl.login.retry.backoff.ms", "100")
        .inert(NO_SECURITY)
        .doc("First pause in milliseconds between two tries at the identity provider."),
    broker(Long, "sasl.login.retry.backoff.max.ms", "10000")
        .inert(NO_SECURITY)
        .doc("Longest pause in milliseconds between two tries at the identity provider."),
    broker_null(String, "sasl.oauthbearer.token.endpoint.url")
        .inert(NO_SECURITY)
        .doc("Address of the identity provider's token endpoint."),
    broker_null(String, "sasl.oauthbearer.jwks.endpoint.url")
        .inert(NO_SECURITY)
        .doc("Address of the identity provider's keys."),
    broker(Long, "sasl.oauthbearer.jwks.endpoint.refresh.ms", "3600000")
        .inert(NO_SECURITY)
        .doc("Time in milliseconds between two fetches of the identity provider's keys."),
    broker(
        Long,
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms",
        "100",
    )
    .inert(NO_SECURITY)
    .doc("First pause in milliseconds between two tries to fetch the keys."),
    broker(
        Long,
        "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms",
        "10000",
    )
    .inert(NO_SECURITY)
    .doc("Longest pause in milliseconds between two tries to fetch the keys."),
    broker(Int, "sasl.oauthbearer.clock.skew.seconds", "30")
        .inert(NO_SECURITY)
        .doc("Difference of clocks in seconds that is tolerated in tokens."),
    broker_null(List, "sasl.oauthbearer.expected.audience")
        .inert(NO_SECURITY)
        .doc("Audiences that a token may be for."),
    broker_null(String, "sasl.oauthbearer.expected.issuer")
        .inert(NO_SECURITY)
        .doc("Issuer that a token must be from."),
    broker(String, "sasl.oauthbearer.scope.claim.name", "scope")
        .inert(NO_SECURITY)
        .doc("Name of the claim that holds a token's scope."),
    broker(String, "sasl.oauthbearer.sub.claim.name", "sub")
        .inert(NO_SECURITY)
        .doc("Name of the claim that holds a token's subject."),
    broker(String, "ssl.client.auth", "none")
        .one_of(&["required", "requested", "none"])
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Whether clients must show a certificate."),
    broker(List, "ssl.enabled.protocols", "TLSv1.2,TLSv1.3")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Versions of TLS that may be used."),
    broker(String, "ssl.protocol", "TLSv1.3")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Version of TLS that is preferred."),
    broker_null(String, "ssl.provider")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Java security provider of TLS."),
    broker(List, "ssl.cipher.suites", "")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Cipher suites that may be used; empty for the usual ones."),
    broker(String, "ssl.keystore.type", "JKS")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Form of the key store: JKS, PKCS12 or PEM."),
    broker_null(String, "ssl.keystore.location")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("File of the key store."),
    broker_null(Password, "ssl.keystore.password")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Password of the key store."),
    broker_null(Password, "ssl.keystore.key")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Private key in PEM form."),
    broker_null(Password, "ssl.keystore.certificate.chain")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Chain of certificates in PEM form."),
    broker_null(Password, "ssl.key.password")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Password of the private key."),
    broker(String, "ssl.truststore.type", "JKS")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Form of the trust store: JKS, PKCS12 or PEM."),
    broker_null(String, "ssl.truststore.location")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("File of the trust store."),
    broker_null(Password, "ssl.truststore.password")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Password of the trust store."),
    broker_null(Password, "ssl.truststore.certificates")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Trusted certificates in PEM form."),
    broker(String, "ssl.keymanager.algorithm", "SunX509")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Algorithm of the key manager."),
    broker(String, "ssl.trustmanager.algorithm", "PKIX")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Algorithm of the trust manager."),
    broker(String, "ssl.endpoint.identification.algorithm", "https")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("How the name in a server's certificate is checked; empty for not at all."),
    broker_null(String, "ssl.secure.random.implementation")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Source of random numbers for TLS."),
    broker_null(Class, "ssl.engine.factory.class")
        .per_broker()
        .inert(NO_SECURITY)
        .doc("Class that makes TLS engines."),
    broker(String, "ssl.principal.mapping.rules", "DEFAULT")
        .inert(NO_SECURITY)
        .doc("Rules that make principals of certificate names."),
    broker(Boolean, "ssl.allow.dn.changes", "false")
        .inert(NO_SECURITY)
        .doc("Whether a new certificate may have another distinguished name."),
    broker(Boolean, "ssl.allow.san.changes", "false")
        .inert(NO_SECURITY)
        .doc("Whether a new certificate may have other alternative names."),
    broker_null(Password, "delegation.token.secret.key")
        .inert(NO_SECURITY)
        .doc("Secret that signs delegation tokens."),
    broker(Long, "delegation.token.max.lifetime.ms", "604800000")
        .at_least(1)
        .inert(NO_SECURITY)
        .doc("Longest life in milliseconds of a delegation token, renewals included."),
    broker(Long, "delegation.token.expiry.time.ms", "86400000")
        .at_least(1)
        .inert(NO_SECURITY)
        .doc("Time in milliseconds after which a delegation token must be renewed."),
    broker(Long, "delegation.token.expiry.check.interval.ms", "3600000")
        .at_least(1)
        .inert(NO_SECURITY)
        .doc("Time in milliseconds between two looks for delegation tokens to remove."),
];
