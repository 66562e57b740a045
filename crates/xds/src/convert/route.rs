//! Route: a RouteConfiguration with one virtual host for every authority, since the Listener that points
//! here already says which service was meant.
//!
//! An Envoy route has one match, a rule has any number: a rule becomes one route for each of its matches, all
//! of its name, and neighbours that differ in nothing but the match are one rule again when read. (`compile`
//! never puts two such rules next to each other: they would be one.)

#![allow(deprecated)] // every field is named, also those that Envoy gave up

use std::collections::BTreeSet;
use std::time;

use meshwork_core::compile::Audience;
use meshwork_core::compile::grpc::RETRIABLE;
use meshwork_core::model::{HeaderModifier, PathMatch, RouteMatch};
use meshwork_core::policy::{RuleRetry, Timeouts};
use meshwork_core::resource::{Route, Rule, WeightedBackend};
use prost::Message as _;

use super::common::{duration, read_cluster_name, read_duration, read_port_name};
use super::envoy::{SAFE, elsewhere, literal};
use super::open::{Refused, Under, decode, expect, only, open, required};
use crate::wire::core::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction};
use crate::wire::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::wire::route::{
    self as envoy,
    header_matcher::HeaderMatchSpecifier,
    retry_policy::RetryBackOff,
    route::Action,
    route_action::{ClusterSpecifier, MaxStreamDuration},
    route_match::PathSpecifier,
    weighted_cluster::ClusterWeight,
};
use crate::wire::{Duration, UInt32Value};

/// What a rule without backends answers (Gateway API, HTTPRouteRule.backendRefs).
const NO_BACKEND: u32 = 500;
/// Any authority.
const ANY: &str = "*";
/// When a rule with a retry of its own tries again (GEP-1731: its codes, and failures of connections).
const RETRY_ON: &str = "connect-failure,refused-stream,reset,retriable-status-codes";
/// How Envoy names the method among the headers.
const METHOD: &str = ":method";

pub(super) fn write(route: &Route, audience: Audience) -> Vec<u8> {
    let name = route.name.to_string();
    let message = envoy::RouteConfiguration {
        virtual_hosts: vec![envoy::VirtualHost {
            name: name.clone(),
            domains: vec![ANY.to_owned()],
            routes: route.rules.iter().flat_map(|rule| write_rule(rule, audience)).collect(),
            ..envoy::VirtualHost::default()
        }],
        name,
        ..envoy::RouteConfiguration::default()
    };
    message.encode_to_vec()
}

fn write_rule(rule: &Rule, audience: Audience) -> impl Iterator<Item = envoy::Route> {
    let base = envoy::Route {
        name: rule.name.clone(),
        request_headers_to_add: write_headers(&rule.request_headers, audience),
        request_headers_to_remove: rule.request_headers.remove.clone(),
        response_headers_to_add: write_headers(&rule.response_headers, audience),
        response_headers_to_remove: rule.response_headers.remove.clone(),
        action: Some(write_action(rule, audience)),
        ..envoy::Route::default()
    };
    rule.matches
        .iter()
        .map(move |matches| envoy::Route { r#match: Some(write_match(matches, audience)), ..base.clone() })
}

fn write_match(matches: &RouteMatch, audience: Audience) -> envoy::RouteMatch {
    let path = match &matches.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        // Every path starts with "/"; Envoy refuses it as a prefix by whole elements.
        PathMatch::Prefix(prefix) if prefix == "/" => PathSpecifier::Prefix(prefix.clone()),
        PathMatch::Prefix(prefix) if audience == Audience::Grpc => {
            PathSpecifier::SafeRegex(by_elements(prefix))
        }
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
    };
    let method = matches.method.iter().map(|method| write_header_match(METHOD, method));
    let headers = matches.headers.iter().map(|(name, value)| write_header_match(name, value));
    envoy::RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        ..envoy::RouteMatch::default()
    }
}

/// gRPC knows no prefix by whole elements, and refuses a route that has one.
fn by_elements(prefix: &str) -> RegexMatcher {
    let mut regex = String::new();
    for letter in prefix.chars() {
        if !letter.is_ascii_alphanumeric() && letter.is_ascii() {
            regex.push('\\');
        }
        regex.push(letter);
    }
    RegexMatcher { regex: format!("{regex}(/.*)?"), ..RegexMatcher::default() }
}

fn write_header_match(name: &str, value: &str) -> envoy::HeaderMatcher {
    let exact = StringMatcher {
        match_pattern: Some(MatchPattern::Exact(value.to_owned())),
        ..StringMatcher::default()
    };
    envoy::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..envoy::HeaderMatcher::default()
    }
}

fn write_headers(modifier: &HeaderModifier, audience: Audience) -> Vec<HeaderValueOption> {
    let written = |value: &str| match audience {
        Audience::Envoy => literal(value),
        Audience::Sidecar(_) | Audience::Grpc => value.to_owned(),
    };
    let option = |(key, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue { key: key.clone(), value: written(value), ..HeaderValue::default() }),
        append_action: action.into(),
        // Without it Envoy takes an empty value for "leave the header out".
        keep_empty_value: true,
        ..HeaderValueOption::default()
    };
    let set = modifier.set.iter().map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = modifier.add.iter().map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn write_action(rule: &Rule, audience: Audience) -> Action {
    let Rule { backends, timeouts, .. } = rule;
    if backends.is_empty() {
        return Action::DirectResponse(envoy::DirectResponseAction {
            status: NO_BACKEND,
            ..envoy::DirectResponseAction::default()
        });
    }
    let clusters = backends.iter().map(|backend| ClusterWeight {
        name: backend.cluster.to_string(),
        weight: Some(UInt32Value { value: backend.weight }),
        ..ClusterWeight::default()
    });
    let weighted =
        envoy::WeightedCluster { clusters: clusters.collect(), ..envoy::WeightedCluster::default() };
    Action::Route(envoy::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
        timeout: write_timeout(timeouts.request, audience),
        max_stream_duration: write_duration(timeouts.request, audience),
        retry_policy: write_retry(rule, audience),
        ..envoy::RouteAction::default()
    })
}

/// To a sidecar of ours "absent" is "as the service says". To Envoy it would be 15 s; a mesh has no request time-out
/// unless somebody says so.
fn write_timeout(request: Option<time::Duration>, audience: Audience) -> Option<Duration> {
    match (request, audience) {
        (Some(request), _) => Some(duration(request)),
        (None, Audience::Sidecar(_)) => None,
        (None, Audience::Envoy | Audience::Grpc) => Some(Duration::default()),
    }
}

/// gRPC looks at nothing else for a call's time-out (gRFC A31).
fn write_duration(request: Option<time::Duration>, audience: Audience) -> Option<MaxStreamDuration> {
    let request = request.filter(|_| audience == Audience::Grpc)?;
    Some(MaxStreamDuration { max_stream_duration: Some(duration(request)), ..MaxStreamDuration::default() })
}

/// gRPC tries again by its own statuses only, and passes over other words (gRFC A44).
fn write_retry_on(retry: &RuleRetry, audience: Audience) -> String {
    match audience {
        Audience::Grpc => {}
        // What no route asked for: its codes are none.
        Audience::Envoy if retry.codes.is_empty() => return SAFE.to_owned(),
        Audience::Sidecar(_) | Audience::Envoy => return RETRY_ON.to_owned(),
    }
    let words = RETRIABLE.iter().filter(|(code, _)| retry.codes.contains(code)).map(|(_, word)| *word);
    words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
}

/// The time-out of one try stands in Envoy's retry policy, whether anything is tried again or not.
fn write_retry(rule: &Rule, audience: Audience) -> Option<envoy::RetryPolicy> {
    let Rule { timeouts, retry, .. } = rule;
    let per_try_timeout = timeouts.backend_request.map(duration);
    let Some(all @ RuleRetry { codes, attempts, backoff }) = retry else {
        let only_timeout = envoy::RetryPolicy { per_try_timeout, ..envoy::RetryPolicy::default() };
        return per_try_timeout.is_some().then_some(only_timeout);
    };
    let policy = envoy::RetryPolicy {
        retry_on: write_retry_on(all, audience),
        num_retries: attempts.map(|value| UInt32Value { value }),
        per_try_timeout,
        retriable_status_codes: codes.iter().copied().map(u32::from).collect(),
        retry_back_off: backoff.map(|backoff| RetryBackOff {
            base_interval: Some(duration(backoff)),
            ..RetryBackOff::default()
        }),
        ..envoy::RetryPolicy::default()
    };
    Some(if audience == Audience::Envoy { elsewhere(policy) } else { policy })
}

pub(super) fn read(bytes: &[u8]) -> Result<Route, Refused> {
    let message: envoy::RouteConfiguration = decode(bytes)?;
    open!(message, envoy::RouteConfiguration { name, virtual_hosts } refuse {
        vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove, request_headers_to_add,
        request_headers_to_remove, most_specific_header_mutations_wins, validate_clusters,
        max_direct_response_body_size_bytes, cluster_specifier_plugins, request_mirror_policies,
        ignore_port_in_host_matching, vhost_header, ignore_path_parameters_in_path_matching,
        typed_per_filter_config, metadata, route_specifiers
    });
    let rules = read_host(only("virtual_hosts", virtual_hosts)?, &name).under("virtual_hosts[0]")?;
    Ok(Route { name: read_port_name("name", &name)?, rules })
}

fn read_host(host: envoy::VirtualHost, route_name: &str) -> Result<Vec<Rule>, Refused> {
    open!(host, envoy::VirtualHost { name, domains, routes } refuse {
        matcher, require_tls, virtual_clusters, rate_limits, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove, cors, typed_per_filter_config,
        include_request_attempt_count, include_attempt_count_in_response, retry_policy, retry_policy_typed_config,
        hedge_policy, include_is_timeout_retry_header, per_request_buffer_limit_bytes, request_body_buffer_limit,
        request_mirror_policies, metadata, route_specifiers
    });
    expect("name", &name.as_str(), &route_name)?;
    expect("domains", &domains, &vec![ANY.to_owned()])?;
    let mut rules: Vec<Rule> = Vec::new();
    for (index, route) in routes.into_iter().enumerate() {
        let mut rule = read_rule(route).under(format_args!("routes[{index}]"))?;
        match rules.last_mut() {
            Some(last) if same_but_matches(last, &rule) => last.matches.append(&mut rule.matches),
            _ => rules.push(rule),
        }
    }
    Ok(rules)
}

fn same_but_matches(one: &Rule, other: &Rule) -> bool {
    let Rule { name, matches: _, request_headers, response_headers, backends, timeouts, retry } = one;
    *name == other.name
        && *request_headers == other.request_headers
        && *response_headers == other.response_headers
        && *backends == other.backends
        && *timeouts == other.timeouts
        && *retry == other.retry
}

/// A rule of one match.
fn read_rule(route: envoy::Route) -> Result<Rule, Refused> {
    open!(route, envoy::Route {
        name, r#match, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
        response_headers_to_remove, action
    } refuse {
        metadata, decorator, typed_per_filter_config, tracing, per_request_buffer_limit_bytes, stat_prefix,
        request_body_buffer_limit, route_specifiers
    });
    let Acted { backends, timeouts, retry } = match required("action", action)? {
        Action::Route(action) => read_action(action).under("route")?,
        Action::DirectResponse(response) => read_no_backend(response).under("direct_response")?,
        Action::Redirect(_) | Action::FilterAction(_) | Action::NonForwardingAction(_) => {
            return Err(Refused::at("action", "must be route, or direct_response with status 500"));
        }
    };
    let request = read_headers("request_headers_to_add", request_headers_to_add)?;
    let response = read_headers("response_headers_to_add", response_headers_to_add)?;
    Ok(Rule {
        name,
        matches: vec![read_match(required("match", r#match)?).under("match")?],
        request_headers: HeaderModifier { remove: request_headers_to_remove, ..request },
        response_headers: HeaderModifier { remove: response_headers_to_remove, ..response },
        backends,
        timeouts,
        retry,
    })
}

/// What a rule does.
#[derive(Default)]
struct Acted {
    backends: Vec<WeightedBackend>,
    timeouts: Timeouts,
    retry: Option<RuleRetry>,
}

fn read_match(matches: envoy::RouteMatch) -> Result<RouteMatch, Refused> {
    open!(matches, envoy::RouteMatch { headers, path_specifier } refuse {
        case_sensitive, runtime_fraction, query_parameters, cookies, grpc, tls_context, dynamic_metadata,
        filter_state
    });
    let path = match required("path_specifier", path_specifier)? {
        PathSpecifier::Path(path) => PathMatch::Exact(path),
        PathSpecifier::PathSeparatedPrefix(prefix) => PathMatch::Prefix(prefix),
        PathSpecifier::Prefix(prefix) => {
            expect("prefix", &prefix.as_str(), &"/")?;
            PathMatch::Prefix(prefix)
        }
        PathSpecifier::SafeRegex(_)
        | PathSpecifier::ConnectMatcher(_)
        | PathSpecifier::PathMatchPolicy(_) => {
            return Err(Refused::at("path_specifier", "must be path, path_separated_prefix or the prefix /"));
        }
    };
    let mut read = RouteMatch { path, method: None, headers: Vec::new() };
    for (index, header) in headers.into_iter().enumerate() {
        let (name, value) = read_header_match(header).under(format_args!("headers[{index}]"))?;
        match name.as_str() {
            METHOD if read.method.is_none() => read.method = Some(value),
            METHOD => return Err(Refused::at(format_args!("headers[{index}]"), "names the method twice")),
            _ => read.headers.push((name, value)),
        }
    }
    Ok(read)
}

fn read_header_match(header: envoy::HeaderMatcher) -> Result<(String, String), Refused> {
    open!(header, envoy::HeaderMatcher { name, header_match_specifier } refuse {
        invert_match, treat_missing_header_as_empty
    });
    let Some(HeaderMatchSpecifier::StringMatch(matcher)) = header_match_specifier else {
        return Err(Refused::at("header_match_specifier", "must be string_match"));
    };
    open!(matcher, StringMatcher { match_pattern } refuse { ignore_case });
    match match_pattern {
        Some(MatchPattern::Exact(value)) => Ok((name, value)),
        _ => Err(Refused::at("string_match", "must be exact")),
    }
}

/// `remove` stays empty: it is a list of its own on the wire.
fn read_headers(field: &str, options: Vec<HeaderValueOption>) -> Result<HeaderModifier, Refused> {
    let mut modifier = HeaderModifier::default();
    for (index, option) in options.into_iter().enumerate() {
        let (action, header) = read_header(option).under(format_args!("{field}[{index}]"))?;
        match action {
            HeaderAppendAction::OverwriteIfExistsOrAdd => modifier.set.push(header),
            HeaderAppendAction::AppendIfExistsOrAdd => modifier.add.push(header),
            HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists => {
                let field = format!("{field}[{index}].append_action");
                return Err(Refused::at(field, "must be append or overwrite, if it exists or not"));
            }
        }
    }
    Ok(modifier)
}

fn read_header(option: HeaderValueOption) -> Result<(HeaderAppendAction, (String, String)), Refused> {
    open!(option, HeaderValueOption { header, append_action, keep_empty_value } refuse { append });
    open!(required("header", header)?, HeaderValue { key, value } refuse { raw_value });
    expect("keep_empty_value", &keep_empty_value, &true)?;
    let action = HeaderAppendAction::try_from(append_action)
        .map_err(|_| Refused::at("append_action", format!("is {append_action}, which is unknown")))?;
    Ok((action, (key, value)))
}

fn read_action(action: envoy::RouteAction) -> Result<Acted, Refused> {
    open!(action, envoy::RouteAction { timeout, retry_policy, cluster_specifier } refuse {
        cluster_not_found_response_code, metadata_match, prefix_rewrite, regex_rewrite, path_rewrite_policy,
        path_rewrite, append_x_forwarded_host, idle_timeout, flush_timeout, early_data_policy,
        retry_policy_typed_config, request_mirror_policies, priority, rate_limits, include_vh_rate_limits,
        hash_policy, cors, max_grpc_timeout, grpc_timeout_offset, upgrade_configs, internal_redirect_policy,
        internal_redirect_action, max_internal_redirects, hedge_policy, max_stream_duration, host_rewrite_specifier
    });
    let request = timeout.map(|timeout| read_duration("timeout", timeout)).transpose()?;
    let policy = retry_policy.unwrap_or_default();
    let (backend_request, retry) = read_retry(policy).under("retry_policy")?;
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = cluster_specifier else {
        return Err(Refused::at("cluster_specifier", "must be weighted_clusters"));
    };
    let backends = read_weighted(weighted).under("weighted_clusters")?;
    Ok(Acted { backends, timeouts: Timeouts { request, backend_request }, retry })
}

fn read_retry(policy: envoy::RetryPolicy) -> Result<(Option<time::Duration>, Option<RuleRetry>), Refused> {
    open!(policy, envoy::RetryPolicy {
        retry_on, num_retries, per_try_timeout, retriable_status_codes, retry_back_off
    } refuse {
        per_try_idle_timeout, retry_priority, retry_host_predicate, retry_options_predicates,
        host_selection_retry_max_attempts, rate_limited_retry_back_off, retriable_headers,
        retriable_request_headers, refresh_cluster_on_retry
    });
    let timeout = per_try_timeout.map(|timeout| read_duration("per_try_timeout", timeout)).transpose()?;
    if retry_on.is_empty() {
        expect("num_retries", &num_retries, &None)?;
        expect("retriable_status_codes", &retriable_status_codes, &Vec::new())?;
        expect("retry_back_off", &retry_back_off, &None)?;
        return Ok((timeout, None));
    }
    expect("retry_on", &retry_on.as_str(), &RETRY_ON)?;
    let code = |code: &u32| {
        let code = u16::try_from(*code).ok().filter(|code| (400..=599).contains(code));
        code.ok_or_else(|| Refused::at("retriable_status_codes", "must be 400 to 599, each"))
    };
    let codes: BTreeSet<u16> = retriable_status_codes.iter().map(code).collect::<Result<_, _>>()?;
    let backoff = retry_back_off.map(read_back_off).transpose().under("retry_back_off")?;
    Ok((timeout, Some(RuleRetry { codes, attempts: num_retries.map(|number| number.value), backoff })))
}

fn read_back_off(backoff: RetryBackOff) -> Result<time::Duration, Refused> {
    open!(backoff, RetryBackOff { base_interval } refuse { max_interval });
    read_duration("base_interval", required("base_interval", base_interval)?)
}

fn read_weighted(weighted: envoy::WeightedCluster) -> Result<Vec<WeightedBackend>, Refused> {
    open!(weighted, envoy::WeightedCluster { clusters } refuse {
        total_weight, runtime_key_prefix, random_value_specifier
    });
    if clusters.is_empty() {
        return Err(Refused::at("clusters", "is empty"));
    }
    let backends = clusters.into_iter().enumerate();
    backends.map(|(index, cluster)| read_backend(cluster).under(format_args!("clusters[{index}]"))).collect()
}

fn read_backend(cluster: ClusterWeight) -> Result<WeightedBackend, Refused> {
    open!(cluster, ClusterWeight { name, weight } refuse {
        cluster_header, metadata_match, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
        response_headers_to_remove, typed_per_filter_config, host_rewrite_specifier
    });
    let UInt32Value { value: weight } = required("weight", weight)?;
    Ok(WeightedBackend { cluster: read_cluster_name("name", &name)?, weight })
}

fn read_no_backend(response: envoy::DirectResponseAction) -> Result<Acted, Refused> {
    open!(response, envoy::DirectResponseAction { status } refuse { body, body_format });
    expect("status", &status, &NO_BACKEND)?;
    Ok(Acted::default())
}
