//! Clients that look a service up by its name and connect, as they do to everybody.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::place::{Place, Way, answers, counted, said};
use crate::support::{Process, free_port, wait_for};

#[test]
fn everyday_http_clients_on_a_host_reach_a_service_by_its_name() {
    http_clients(Way::Cgroup);
}

#[test]
fn everyday_http_clients_in_a_container_reach_a_service_by_its_name() {
    http_clients(Way::Redirect);
}

fn http_clients(way: Way) {
    let Some(place) = Place::enter_with(way, &["wget", "nghttp"]) else { return };
    let _cart = place.cart();
    let answer = place.prints(
        "web",
        "until curl -sf --max-time 20 -o /dev/null http://cart/; do sleep 0.05; done # a first one may be late
         curl -sS --fail --max-time 20 http://cart/; echo \" curl\"
         wget -q -T 20 -O - http://cart.default/; echo \" wget\"
         python3 -c 'import urllib.request as r; print(r.urlopen(\"http://cart/\", timeout=20).read().decode(), \"python\")'
         curl -sS --fail --max-time 20 --http1.0 http://cart.default.mesh/; echo \" HTTP/1.0\"
         curl -sS --fail --max-time 20 --http2-prior-knowledge http://cart/ -w ' HTTP/%{http_version}\\n'
         nghttp --timeout=20 http://cart/; echo \" nghttp\"",
    );
    assert_eq!(answer, "ok curl\nok wget\nok python\nok HTTP/1.0\nok HTTP/2\nok nghttp\n");
}

#[test]
fn nginx_on_a_host_passes_requests_on_to_a_service_by_its_name() {
    nginx(Way::Cgroup);
}

#[test]
fn nginx_in_a_container_passes_requests_on_to_a_service_by_its_name() {
    nginx(Way::Redirect);
}

fn nginx(way: Way) {
    let Some(place) = Place::enter_with(way, &["nginx"]) else { return };
    let cart = place.cart();
    let (port, dir) = (free_port(), place.mesh.path().join("nginx"));
    std::fs::create_dir(&dir).unwrap();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;
         events {{}}
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
                 uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
                 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://cart/; }} }} }}",
        dir = dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let file = dir.join("nginx.conf").display().to_string();
    let flags = ["--port", &format!("80:{port}")];
    let mut nginx = place.captured_serving("front", &flags, &["nginx", "-c", &file]);
    let _nginx = place.started("front", nginx.stderr(Stdio::null()));
    // From the mesh to nginx, and from nginx to the mesh.
    assert_eq!(cart.eventually("http://front/"), "ok");
}

#[test]
fn redis_is_reached_by_its_client_on_a_host() {
    redis(Way::Cgroup);
}

#[test]
fn redis_is_reached_by_its_client_in_a_container() {
    redis(Way::Redirect);
}

fn redis(way: Way) {
    let Some(place) = Place::enter_with(way, &["redis-server", "redis-cli"]) else { return };
    let _redis = place.redis();
    let answer = place.prints(
        "web",
        "until redis-cli -h redis ping > /dev/null 2>&1; do sleep 0.05; done
         redis-cli -h redis set key value; redis-cli -h redis.default get key
         yes 'incr count' | head -200 | redis-cli -h redis | tail -1",
    );
    assert_eq!(answer, "OK\nvalue\n200\n");
}

#[test]
fn https_of_the_applications_own_passes_untouched_on_a_host() {
    https(Way::Cgroup);
}

#[test]
fn https_of_the_applications_own_passes_untouched_in_a_container() {
    https(Way::Redirect);
}

/// The application's own TLS: the client sees the application's certificate, and checks it.
fn https(way: Way) {
    let Some(place) = Place::enter_with(way, &["openssl"]) else { return };
    let (port, dir) = (free_port(), place.mesh.path().display().to_string());
    let certificate = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=safe \
         -addext subjectAltName=DNS:safe,DNS:safe.default.mesh -keyout {dir}/key.pem -out {dir}/cert.pem"
    );
    said(&Command::new("sh").args(["-c", &certificate]).output().unwrap());
    let serving = format!(
        "cd {dir} && exec openssl s_server -accept 127.0.0.1:{port} -cert cert.pem -key key.pem -www -quiet"
    );
    let mut server = Command::new("sh");
    let _server =
        Process(server.args(["-c", &serving]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    answers(port);
    let _safe = place.serve("safe", &format!("443:{port}"), &["sleep", "1000"]);
    place.known("safe");
    // By the service's address, and by the name in the ClientHello on the way to an address that is no service's. Somebody is
    // there: a client that is slow to speak finds the way open.
    let host = place.host();
    let _elsewhere = place.inside(|| TcpListener::bind((host, 443)).unwrap());
    let script = format!(
        "set -e; get() {{ curl -sS --fail --max-time 20 --cacert {dir}/cert.pem -o /dev/null -w '%{{http_code}}\\n' \"$@\"; }}
         until get https://safe/ > /dev/null; do sleep 0.05; done
         get https://safe/
         get --resolve safe.default.mesh:443:{host} https://safe.default.mesh/
         touch {dir}/done; exec sleep 1000"
    );
    let mut run = place.captured("web", &["sh", "-c", &script]);
    let mut run = place.started("web", run.stdout(Stdio::piped()));
    wait_for("both answers", || {
        let ended = run.process.0.try_wait().unwrap();
        assert!(ended.is_none(), "the command ended: {ended:?}");
        std::path::Path::new(&format!("{dir}/done")).exists().then_some(())
    });
    for how in ["\"address\"", "\"server_name\""] {
        let how = ["meshwork_captured_connections", how];
        assert!(place.inside(|| counted(&run, &how)) > 0, "{how:?}");
    }
}
