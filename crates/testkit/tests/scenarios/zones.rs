//! Callers stay in their own zone while it can bear them, go on to its region, then to everybody, and come back: nothing
//! fails meanwhile.

use meshwork_testkit::{App, Load, Mesh, Workload, eventually, workload};

const CATALOG: &str = "
apiVersion: v1
kind: Service
metadata: {name: catalog}
spec: {selector: {app: catalog}, ports: [{port: 80, appProtocol: http}]}
---
apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: catalog}
spec:
  targetRefs: [{group: '', kind: Service, name: catalog}]
  loadBalancer: {trafficDistribution: PreferSameZone}
";

/// Requests, once it is known where they go.
const MANY: usize = 200;

fn catalog(app: &App, region: &str, zone: &str) -> Workload {
    workload("catalog").serving(80, app).within(region, zone)
}

#[tokio::test]
async fn callers_stay_in_their_zone_then_in_its_region_and_come_back() {
    let (near, beside, far) = (App::http("near").await, App::http("beside").await, App::http("far").await);
    let mesh = Mesh::builder().http2(super::HTTP2).with(workload("web").within("eu", "a")).start().await;
    mesh.apply(CATALOG).await;
    let _far = mesh.join(catalog(&far, "us", "a")).await;
    let in_region = mesh.join(catalog(&beside, "eu", "b")).await;
    let in_zone = mesh.join(catalog(&near, "eu", "a")).await;
    let web = mesh.sidecar("web");
    let load = Load::start(web, "http://catalog/items", 4);
    let apps = [&near, &beside, &far];
    let only = async |what: &str, app: &App| {
        eventually(what, async || {
            let before = apps.map(App::count);
            load.goes_on(MANY).await;
            let since: Vec<_> = apps.iter().zip(before).map(|(app, before)| app.count() - before).collect();
            let alone =
                apps.iter().zip(&since).all(|(one, count)| (one.address() == app.address()) == (*count > 0));
            if !alone {
                println!("{what}? {since:?}");
            }
            alone
        })
        .await;
    };
    only("the zone's own is called alone", &near).await;
    in_zone.drain().await;
    let state = in_zone.stop().await;
    only("the region's other zone is called alone", &beside).await;
    in_region.drain().await;
    in_region.stop().await;
    only("another region is called", &far).await;
    let _back = mesh.come_back(catalog(&near, "eu", "a"), state).await;
    only("the zone's own is called alone again", &near).await;
    let tally = load.stop().await;
    assert_eq!(tally.failures, [] as [String; 0]);
    mesh.stop().await;
}
