//! Services without a sidecar, and their instances on loopback, as documents.

pub(crate) fn service(name: &str, port: u16, protocol: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: {port}, appProtocol: {protocol}}}]
---"
    )
}

pub(crate) fn instance(service: &str, number: usize, app_port: u16, service_port: u16) -> String {
    format!(
        "
apiVersion: meshwork.dev/v1alpha1
kind: Workload
metadata: {{name: {service}-{number}, labels: {{app: {service}}}}}
spec:
  address: 127.0.0.1
  ports: [{{port: {app_port}, servicePort: {service_port}}}]
---"
    )
}
