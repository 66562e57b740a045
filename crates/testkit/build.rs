//! Makes the stubs of the gRPC service that tests call: its messages are bytes (`src/grpc.rs` has the codec), so there is
//! no proto to compile.

use tonic_build::manual::{Builder, Method, MethodBuilder, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let echo = Service::builder()
        .name("Echo")
        .package("meshwork.test.v1")
        .comment("Answers with what it is sent, in every form that a call may have.")
        .method(method("unary", "Unary", "Sends the message back.").build())
        .method(method("collect", "Collect", "Sends back all messages as one.").client_streaming().build())
        .method(method("scatter", "Scatter", "Sends the message back in pieces.").server_streaming().build())
        .method(
            method("chat", "Chat", "Sends each message back as it comes.")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .method(method("fail", "Fail", "Ends with the status that the message names.").build())
        .method(method("hang", "Hang", "Never answers.").build())
        .method(method("pour", "Pour", "Never ends its answer.").server_streaming().build())
        .build();
    Builder::new().compile(&[echo]);
}

fn method(name: &str, route: &str, comment: &str) -> MethodBuilder {
    Method::builder()
        .name(name)
        .route_name(route)
        .comment(comment)
        .input_type("bytes::Bytes")
        .output_type("bytes::Bytes")
        .codec_path("crate::grpc::BytesCodec")
}
